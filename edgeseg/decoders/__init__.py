"""The postprocessing in other languages, as files that travel with artifacts: ``cpp/`` and ``js/``."""
