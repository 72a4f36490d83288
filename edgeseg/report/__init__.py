"""Pages that people look at: one HTML file each, with everything in it."""
