"""Where φ comes from, one file a strategy."""

from ppvae.inference.amortized import Amortized
from ppvae.inference.exact import Exact
from ppvae.inference.per_datapoint import PerDatapoint

__all__ = ["Amortized", "Exact", "PerDatapoint"]
