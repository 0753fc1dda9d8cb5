"""Which data sets have a name? One file per source."""
