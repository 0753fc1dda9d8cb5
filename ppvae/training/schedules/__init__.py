"""How does a learning rate change in training? One file per schedule."""
