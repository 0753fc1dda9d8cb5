"""Sticking the landing."""

from __future__ import annotations

from typing import ClassVar

from ppvae.catalogue import register
from ppvae.pair.sites import Grad
from ppvae.variational.gradient import Gradient


@register("stl", order=2, objectives={"elbo": "unbiased", "iwae": "biased"}, drops_score=True)
class StickingTheLanding(Gradient):
    """The gradient through the draws, without the score of log q: sticking the landing (Roeder et al. 2017).

    Where log q depends on θ, its gradient in θ stays: the mean of that term is 0.
    """

    draws: ClassVar[Grad] = "path"
