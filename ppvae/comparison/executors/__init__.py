"""Where the rows of a comparison are made."""
