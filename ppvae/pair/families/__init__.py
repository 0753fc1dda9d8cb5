"""What q(z | φ) may look like, one file a family."""
