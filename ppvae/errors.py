"""The exceptions: the command line turns a user's mistake into one line and exit status 2."""

from __future__ import annotations


class PpvaeError(ValueError):
    """Bad input. Its message is one line that names the cause and the way out."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C arrived, and the run so far is kept; the message says how to continue it."""


class NonFiniteError(PpvaeError):
    """A bound became NaN or infinite; the message names the step and the sites or parameters at fault."""


class CheckError(PpvaeError):
    """A model, its guide and its φ disagree, as `ppvae.check` reports."""
