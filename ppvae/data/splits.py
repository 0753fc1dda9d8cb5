"""The data that a fit is judged on: a split, or another file as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae import require
from ppvae.data.dataset import Data
from ppvae.data.preparation import Preparation
from ppvae.errors import PpvaeError

#: all splits, in the order of the file if it was split here
ALL = "all"


@dataclass(frozen=True, eq=False)
class Observations:
    """Data that a fit is judged on.

    Attributes:
        name: of the data.
        split: the part of the data: "train", "valid", "test" or "all".
        x: [N, *event].
        rows: the row of each datum in its file [N]; 0 … N − 1 where it was not split here.
        preparation: how untreated values became x.
        labels: [N] int64, or None; -1 for a label that the training data do not have.
    """

    name: str
    split: str
    x: Tensor
    rows: Tensor
    preparation: Preparation
    labels: Tensor | None = None

    def __repr__(self) -> str:
        return f"Observations({self.name!r}, {self.split} {list(self.x.shape)}, {self.preparation.treatment})"

    @property
    def log_volume(self) -> float:
        """log |dx_file / dx| of a datum, in nats: log p in the units of the file is log p of x minus this."""
        return self.preparation.log_volume(self.x[0].numel())

    def first(self, most: int | None) -> Observations:
        """The first `most` of them, or all."""
        labels = None if self.labels is None else self.labels[:most]
        return Observations(self.name, self.split, self.x[:most], self.rows[:most], self.preparation, labels)


def observations(data: Data, split: str, most: int | None = None) -> Observations:
    """The data of a split, or all data, as observations: the first `most` of them, or all."""
    require.one_of("split", split, (*data.splits, ALL))
    if data.dynamic and split in ("train", ALL):
        raise PpvaeError(
            f"train of {data.name} (dynamic) holds intensities, redrawn at each visit: judge valid or test, "
            'or load the data with treatment="static"'
        )
    parts = [*data.splits] if split == ALL else [split]
    rows = [torch.arange(len(data.splits[part])) if data.rows is None else data.rows[part] for part in parts]
    x = [data.splits[part] for part in parts]
    labels = None if data.labels is None else [data.labels[part] for part in parts]
    if split != ALL:
        found = Observations(data.name, split, x[0], rows[0], data.prepared, None if labels is None else labels[0])
        return found.first(most)
    whole = torch.arange(sum(map(len, rows))) if data.rows is None else torch.cat(rows)
    order = whole.argsort()
    y = None if labels is None else torch.cat(labels)[order]
    return Observations(data.name, split, torch.cat(x)[order], whole[order], data.prepared, y).first(most)
