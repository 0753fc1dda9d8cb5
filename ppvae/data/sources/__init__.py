"""Which data sets go by a name? One file per source."""
