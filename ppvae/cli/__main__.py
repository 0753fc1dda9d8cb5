"""`python -m ppvae.cli`."""

import sys

from ppvae.cli.main import main

sys.exit(main())
