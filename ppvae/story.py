"""A model's own program run as a guide: what it does until its last latent is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.model import Model
from ppvae.sites import is_subsample


def tell(model: Model, x: Tensor, latents: Iterable[str], at: Callable[[Any, dict[str, None]], None]) -> None:
    """Run the model at x until the last of its latents is drawn: decoder and observation have nothing to add.

    Args:
        latents: their names.
        at: called with the message of each latent before it is drawn, and with the latents that are left, in order.
    """
    left = dict.fromkeys(latents)
    if not left:
        return
    try:
        with _Story(left, at):
            model.model(x)
    except _AllDrawn:
        pass


class _AllDrawn(Exception):
    """The last latent has been drawn."""


class _Story(Messenger):
    def __init__(self, left: dict[str, None], at: Callable[[Any, dict[str, None]], None]) -> None:
        super().__init__()
        self.left, self.at = left, at

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if msg["is_observed"]:
            msg["stop"] = True  # a guide observes nothing: handlers outside are not to see it
            return
        self.at(msg, self.left)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.left:
            del self.left[msg["name"]]
            if not self.left:
                raise _AllDrawn
