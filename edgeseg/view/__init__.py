"""Several models beside each other on pictures, live in a browser, and on pictures that somebody drops in."""
