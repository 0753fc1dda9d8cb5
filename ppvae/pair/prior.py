"""A model's own program, run as a guide until its last latent is drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.pair.model import Model
from ppvae.pair.sites import is_subsample, sample_sites
from ppvae.randomness import seeded


def run_prior(model: Model, x: Tensor, latents: Iterable[str], at: Callable[[Any, dict[str, None]], None]) -> None:
    """Run the model at x until the last of its latents is drawn; decoder and observation are not needed.

    Args:
        latents: their names.
        at: called before each latent is drawn, with its message and the latents that are not drawn yet, in order.
    """
    left = dict.fromkeys(latents)
    if not left:
        return
    try:
        with _PriorRun(left, at):
            model.model(x)
    except _AllDrawn:
        pass


class _AllDrawn(Exception):
    """The last latent has been drawn."""


class _PriorRun(Messenger):
    def __init__(self, left: dict[str, None], at: Callable[[Any, dict[str, None]], None]) -> None:
        super().__init__()
        self.left, self.at = left, at

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if msg["is_observed"]:
            msg["stop"] = True  # a guide has no observation: outer handlers must not see this one
            return
        self.at(msg, self.left)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.left:
            del self.left[msg["name"]]
            if not self.left:
                raise _AllDrawn


Replace = Callable[[str, Any, Tensor], Any]


class PriorGuide:
    """A model's program up to its last latent, as a guide: no observation, no site marked for enumeration.

    Args:
        model: p.
        x: some data [B, *event].
        replace: (name of a latent, its distribution, x) → the distribution to draw it from instead.

    Attributes:
        latents: name → the site of a Pyro trace, in the model's order.
    """

    def __init__(self, model: Model, x: Tensor, replace: Replace | None = None) -> None:
        self.model, self.replace = model, replace
        with torch.no_grad(), seeded(0, device=x.device):
            trace = poutine.trace(model.model).get_trace(x[:4])
        self.latents = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}

    def __call__(self, x: Tensor) -> None:
        def unmark(msg: Any, left: dict[str, None]) -> None:
            msg["infer"] = {key: value for key, value in msg["infer"].items() if key != "enumerate"}
            if self.replace is not None:
                msg["fn"] = self.replace(msg["name"], msg["fn"], x)

        run_prior(self.model, x, self.latents, unmark)

    def select(self, index: Tensor) -> PriorGuide:
        return self

    def converted(self, model: Model, dtype: torch.dtype) -> PriorGuide:
        """The prior of a converted model."""
        other = copy.copy(self)
        other.model = model
        return other
