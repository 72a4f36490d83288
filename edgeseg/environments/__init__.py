"""Where programs run: toolchains of converters, packages of npm, children of this Python."""
