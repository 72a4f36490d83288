"""The loop that a product runs: a camera, a model, and where its results go. Capture, inference and output overlap."""
