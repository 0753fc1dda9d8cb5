"""Where φ comes from, one file a strategy."""

from ppvae.inference.amortized import Amortized
from ppvae.inference.exact import Exact
from ppvae.inference.per_datapoint import PerDatapoint
from ppvae.inference.semi_amortized import SemiAmortized

__all__ = ["Amortized", "Exact", "PerDatapoint", "SemiAmortized"]
