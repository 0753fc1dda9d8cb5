"""The data of a split, as observations that a fit can be judged on."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae import require
from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError

#: all splits, in the order of the file if it was split here
ALL = "all"


def observations(data: Data, split: str, most: int | None = None) -> Tensor:
    """The data of a split, or all data, as observations: the first `most` of them [N, *event]."""
    require.one_of("split", split, (*data.splits, ALL))
    if data.dynamic and split in ("train", ALL):
        raise PpvaeError(
            f"train of {data.name} (dynamic) holds intensities, redrawn at each visit: judge valid or test, "
            'or load the data with treatment="static"'
        )
    if split != ALL:
        return data.splits[split][:most]
    return torch.cat([*data.splits.values()])[positions(data, split).argsort()][:most]


def positions(data: Data, split: str) -> Tensor:
    """The rows of the data of a split in their file [N], or 0 … N − 1 where they were not split here."""
    if split != ALL:
        return torch.arange(len(data.splits[split])) if data.rows is None else data.rows[split]
    if data.rows is None:
        return torch.arange(sum(len(x) for x in data.splits.values()))
    return torch.cat([data.rows[part] for part in data.splits])
