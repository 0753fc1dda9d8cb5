"""Reconstructions of given data."""

from __future__ import annotations

from torch import Tensor

from ppvae import require
from ppvae.entry import entry
from ppvae.pair.drawing import Samples, replicate, samples_in_blocks
from ppvae.pair.pair import Pair, require_pair
from ppvae.randomness import stream

_STREAM = stream("tasks/reconstruction")


@entry
def reconstruct(pair: Pair, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Samples:
    """Draw z from q(z | x), one for each datum, and data from p(x | z).

    A discrete latent that the model sums out by itself is drawn from its exact conditional p(k | x, z).

    Args:
        pair: a trained pair.
        x: data [N, *event].
        index: the positions of x in the training set, to use q as training left it; where None, φ is inferred again.
        seed: of the draws, which depend on it and on the position of a datum in x; the caller's random state is
            restored.

    Raises:
        PpvaeError: as `sample`, or x or index is invalid as in `log_marginal`.
    """
    require_pair(pair)
    require.count("seed", seed, least=0)
    x = pair.as_input(x)
    posterior = pair.posterior(x, index, seed=seed)
    return samples_in_blocks(pair, len(x), (seed, _STREAM), lambda index: replicate(pair, posterior, x, index))
