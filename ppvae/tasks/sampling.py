"""Data drawn from a trained model."""

from __future__ import annotations

from ppvae import require
from ppvae.blocks import DATA_BLOCK
from ppvae.entry import entry
from ppvae.pair.drawing import Samples, run_unconditioned, samples_in_blocks
from ppvae.pair.pair import Pair, require_pair
from ppvae.randomness import stream

_STREAM = stream("tasks/sampling")


@entry
def sample(pair: Pair, num_samples: int = 64, *, seed: int = 0) -> Samples:
    """Draw data from p(z) p(x | z).

    Args:
        pair: a trained pair.
        num_samples: n. A larger n keeps the samples of a smaller one and adds to them.
        seed: of the draws; the caller's random state is restored.

    Raises:
        PpvaeError: an argument is out of range, or draws of the model's observed sites are not draws of x: they observe
            a function of x, or not all of it, or the model has `pyro.factor`.
    """
    require_pair(pair)
    require.count("num_samples", num_samples)
    require.count("seed", seed, least=0)
    # a model may use only the length and the device of x
    x = pair.start.new_zeros(DATA_BLOCK, *pair.event_shape)
    return samples_in_blocks(pair, num_samples, (seed, _STREAM), lambda index: run_unconditioned(pair, pair.model, x))
