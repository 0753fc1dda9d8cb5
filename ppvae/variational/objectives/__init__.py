"""Which objectives are there? One file each."""
