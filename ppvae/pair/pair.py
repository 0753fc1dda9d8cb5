"""A model with a posterior, which evidence, tasks and diagnostics work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyro
import torch
from torch import Tensor

from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.local import Layout, Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior


class Pair:
    """A model, its guide and a source of φ, trained here or elsewhere.

    A `Fit` is a pair. Other pairs are made from a model and a function, such as an encoder trained elsewhere.

    Args:
        model: the model and its guide, in evaluation mode.
        source: data x [B, *event] → φ, {name: [B, *event]}, as the model declares it.
        event_shape: of one datum.

    Attributes:
        about: where it comes from: "inference", "data", "treatment".
    """

    def __init__(self, model: Model, source: Callable[[Tensor], Phi], event_shape: Sequence[int]) -> None:
        if not isinstance(model, Model):
            raise PpvaeError(f"model must be a ppvae.Model, got {type(model).__name__}")
        if not callable(source):
            raise PpvaeError(f"source must be a function of x that gives φ, got {type(source).__name__}")
        self.model = model
        self._source, self._event_shape = source, torch.Size(event_shape)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self._event_shape

    @property
    def layout(self) -> Layout:
        """How a flat row is read as φ."""
        return self.model.layout()

    @property
    def start(self) -> Tensor:
        """The declared φ as one row [width], in the precision and on the device of the pair."""
        like = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        row = self.layout.start
        return row if like is None else row.to(like)

    @property
    def about(self) -> Mapping[str, str]:
        return {"inference": "own source of φ", "data": "", "treatment": ""}

    @entry
    def posterior(self, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Posterior:
        """q(z | φ) for data x [B, *event].

        Raises:
            PpvaeError: x is invalid, `index` is given though the pair has no training rows, or φ is not as declared.
        """
        if index is not None:
            raise PpvaeError("this pair has no rows of training data: remove index")
        x = self.as_input(x)
        with torch.no_grad(), pyro.validation_enabled(False):
            phi = self._source(x)
        if not isinstance(phi, Mapping):
            raise PpvaeError(f"source(x) must give φ as a dict of tensors, got {type(phi).__name__}")
        self.layout.pack(phi, len(x))  # refuses entries other than those declared
        return Posterior(self.model, dict(phi))

    def as_input(self, x: Tensor) -> Tensor:
        """x on the model's device, in its precision; raises PpvaeError unless it is [B, *event] and finite."""
        event = tuple(self.event_shape)
        if not isinstance(x, Tensor) or x.dim() < 1 or tuple(x.shape[1:]) != event or not len(x):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PpvaeError(f"x must be a tensor [B, {', '.join(map(str, event))}] with B ≥ 1, got {got}")
        if x.is_complex():
            raise PpvaeError(f"x is {x.dtype}: give real numbers")
        if not bool(x.isfinite().all()):
            raise PpvaeError("x holds NaN or infinite values: drop or impute them first")
        return x.to(self.start)


def _no_source(x: Tensor) -> Phi:
    raise PpvaeError("a converted pair infers no φ: infer it before")


class ConvertedPair(Pair):
    """A pair whose model is in another precision; it infers no φ."""

    def __init__(self, pair: Pair, model: Model, dtype: torch.dtype) -> None:
        super().__init__(model, _no_source, pair.event_shape)
        self._start, self._about = pair.start.to(dtype), pair.about

    @property
    def start(self) -> Tensor:
        return self._start

    @property
    def about(self) -> Mapping[str, str]:
        return self._about


def require_pair(pair: object) -> None:
    """Refuse what is not a pair."""
    if not isinstance(pair, Pair):
        raise PpvaeError(
            f"pair must be a ppvae.Pair, such as the result of ppvae.fit or ppvae.load, got {type(pair).__name__}"
        )
