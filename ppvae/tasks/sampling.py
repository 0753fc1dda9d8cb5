"""Data drawn from a trained model."""

from __future__ import annotations

from ppvae import require
from ppvae.blocks import DATA_BLOCK
from ppvae.pair.drawing import Samples, run_unconditioned, samples_in_blocks
from ppvae.pair.pair import Pair, require_pair
from ppvae.randomness import stream

_STREAM = stream("tasks/sampling")


def sample(pair: Pair, num_samples: int = 64, *, seed: int = 0) -> Samples:
    """Draw data from p(z) p(x | z).

    Args:
        fit: a trained pair.
        num_samples: n. The first of more samples are the samples of fewer.
        seed: of the draws; the caller's random state is left alone.

    Raises:
        PpvaeError: arguments out of range, a model that does not observe exactly one site, or one whose observed site
            is not of the data's size.
    """
    require_pair(pair)
    require.count("num_samples", num_samples)
    require.count("seed", seed, least=0)
    # a model may look at the length and the device of x, and no further
    x = pair.start.new_zeros(DATA_BLOCK, *pair.event_shape)
    return samples_in_blocks(pair, num_samples, (seed, _STREAM), lambda index: run_unconditioned(pair, pair.model, x))
