"""How is log p(x) estimated? One file per method."""
