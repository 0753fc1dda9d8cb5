"""Which estimators of a gradient are there? One file each."""
