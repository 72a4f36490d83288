"""From an artifact to running boards: bundles that install offline and test themselves, and many boards at once."""
