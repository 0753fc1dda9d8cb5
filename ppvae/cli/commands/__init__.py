"""What does each command do? One file per command."""
