"""A data set in three splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae import require
from ppvae.catalogue import LIKELIHOODS
from ppvae.data.preparation import Preparation
from ppvae.data.readers import SPLITS
from ppvae.data.source import LogProb
from ppvae.data.treatment import (
    TREATMENTS,
    VALUES,
    check_values,
    kind_of,
    likelihood_for,
    treatments,
    values_of,
)
from ppvae.errors import PpvaeError


@dataclass(frozen=True)
class DataFacts:
    """The facts about its training data that a fit keeps.

    Attributes:
        name, treatment: as `Data` has them.
        num_data: the number of training data.
        event_shape: of one datum.
        source: the arguments of `load_data` that give the data again, or None for data made in Python.
        preparation: what the training data taught about preparing data; None in fits of earlier versions.
    """

    name: str
    treatment: str
    num_data: int
    event_shape: tuple[int, ...]
    source: dict[str, Any] | None = None
    preparation: Preparation | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits, with the observation model that fits it.

    Attributes:
        name: its name in results.
        train, valid, test: [N, *event] of one floating dtype and one event shape.
        likelihood: the name of a likelihood, such as "bernoulli" or "gaussian".
        treatment: how values became observations; results name it, as log p(x) differs by nats between treatments.
        labels: split → [N] int64, or None.
        log_prob: the exact log density in nats, [B, *event] → [B], where the distribution is known.
        source: the arguments of `load_data` that give it again, or None.
        rows: split → [N], the row of each datum in a file that was split here, or None.
        preparation: how untreated values became these data, or None for data made in Python.

    Raises:
        PpvaeError: an unknown likelihood or treatment; parts that do not fit each other or the likelihood.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    likelihood: str
    treatment: str
    labels: dict[str, Tensor] | None = None
    log_prob: LogProb | None = None
    source: dict[str, Any] | None = None
    rows: dict[str, Tensor] | None = None
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        require.one_of("likelihood", self.likelihood, LIKELIHOODS)
        require.one_of("treatment", self.treatment, treatments())
        values, real = values_of(self.likelihood), likelihood_for("real")
        needs, leaves = TREATMENTS[self.treatment]
        if self.dynamic and values != leaves:
            others = " or ".join(repr(name) for name in LIKELIHOODS if values_of(name) == leaves)
            raise PpvaeError(f"data {self.name!r}: treatment 'dynamic' goes with likelihood {others} only")
        for split, x in self.splits.items():
            where = f"data {self.name!r}, {split}"
            check_values(where, x)
            if (x.shape[1:], x.dtype, x.device) != (self.event_shape, self.train.dtype, self.train.device):
                raise PpvaeError(f"{where}: {kind_of(x)} is unlike train, {kind_of(self.train)}: make rows agree")
            needed = VALUES[needs if self.dynamic and split == "train" else values]
            if not needed.each(x).all():
                remedy = f"{needed.remedy}, or use" if needed.remedy else "use"
                raise PpvaeError(f"{where}: {self.likelihood!r} needs values {needed.words}: {remedy} {real!r}")
        if self.labels is not None and (not isinstance(self.labels, dict) or set(self.labels) != set(SPLITS)):
            raise PpvaeError(f"data {self.name!r}: labels must be None or a dict of {', '.join(SPLITS)}")
        for split, y in (self.labels or {}).items():
            size = len(self.splits[split])
            if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (size,):
                where = f"data {self.name!r}, {split}"
                raise PpvaeError(f"{where}: labels must be a torch.int64 tensor [{size}], not {kind_of(y)}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {list(x.shape)}" for split, x in self.splits.items())
        return f"Data({self.name!r}, {sizes}, {self.likelihood}, {self.treatment})"

    @property
    def splits(self) -> dict[str, Tensor]:
        """Split name → [N, *event], in the order train, valid, test."""
        return {split: getattr(self, split) for split in SPLITS}

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.train.shape[1:]

    @property
    def facts(self) -> DataFacts:
        """The facts about these data that a fit keeps."""
        shape = tuple(self.event_shape)
        return DataFacts(self.name, self.treatment, len(self.train), shape, self.source, self.prepared)

    @property
    def prepared(self) -> Preparation:
        """How untreated values became these data; data made in Python keep their values."""
        return self.preparation or Preparation(self.treatment)

    @property
    def discrete(self) -> bool:
        """Whether the likelihood gives x a probability rather than a density."""
        return VALUES[values_of(self.likelihood)].discrete

    @property
    def dynamic(self) -> bool:
        """Whether each visit redraws training data: then `train` holds intensities, not observations."""
        return self.treatment == "dynamic"

    def draw(self, x: Tensor) -> Tensor:
        """The observations for rows x [B, *event] of `train`: new Bernoulli(x) draws if dynamic, else x."""
        return torch.bernoulli(x) if self.dynamic else x
