"""Opening and running a model: one way for every file, here or in another process."""
