"""Methods of estimating log p(x), one file each."""
