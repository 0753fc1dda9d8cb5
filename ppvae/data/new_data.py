"""Other data than those of a fit, prepared as its training data were."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from ppvae import require
from ppvae.catalogue import SOURCES
from ppvae.data.dataset import Data
from ppvae.data.loading import DataLike, data_root, load_data, read, treated, treatment_like
from ppvae.data.preparation import Preparation, in_single_precision
from ppvae.data.readers import SPLITS
from ppvae.data.source import binarised
from ppvae.data.splits import ALL, Observations, observations
from ppvae.data.treatment import DRAWN, check_values
from ppvae.entry import entry
from ppvae.errors import PpvaeError


@entry
def read_new(
    name: DataLike,
    like: Preparation,
    *,
    split: str | None = None,
    treatment: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    labels: str | int | None = None,
) -> Observations:
    """Data prepared by what the training data of a fit taught. A file or torch data set without splits stays whole.

    Args:
        name: as `load_data` has it.
        like: the preparation of the training data.
        split: the part of data that have splits; where None, test.
        treatment: where it should differ from that of the training data; treatments that make binary values can
            replace each other, others cannot.
        root, seed, labels: as `load_data` has them.

    Raises:
        PpvaeError: as `load_data`; also for columns that are not those of the training data, a treatment that makes
            other values, and a split of data that have none.
    """
    if split is not None:
        require.one_of("split", split, (*SPLITS, ALL))
    if isinstance(name, Data):
        return observations(load_data(name, treatment=treatment, seed=seed, labels=labels, like=like), split or "test")
    chosen = treatment_like(like, treatment)
    kind, raw, _ = read(name, data_root(root), seed, labels, like)
    if "all" not in raw.x or (isinstance(name, str) and name in SOURCES):
        return observations(treated(kind, raw, chosen, seed, like), split or "test")
    if split not in (None, ALL):
        raise PpvaeError(f"{kind!r} is not split, as it is not the data of the fit: remove split")
    x = raw.x["all"]
    check_values(f"data {kind!r}", x)
    preparation = replace(like, treatment=chosen)
    preparation.require_values(repr(kind), x)
    x = preparation.apply(x)
    if chosen in DRAWN:
        x = binarised(x, seed, "test")
    (x,) = in_single_precision(x)
    y = None if raw.y is None else raw.y["all"]
    return Observations(kind, ALL, x, torch.arange(len(x)), preparation, y)
