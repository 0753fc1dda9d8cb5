"""What may q(z | φ) look like? One file per family."""
