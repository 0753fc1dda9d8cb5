"""The options of data and their treatment, for Python, the command line and YAML."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from ppvae import require
from ppvae.catalogue import SOURCES
from ppvae.data.treatment import treatments
from ppvae.options import Options, option

if TYPE_CHECKING:
    from ppvae.data.dataset import Data
    from ppvae.data.preparation import Preparation


class DataOptions(Options):
    """The data, and how their values become observations."""

    data: str | Any = option("digits", "the name of a data set (`ppvae list` has them), or a .npy, .npz or .csv file")
    treatment: str | None = option(
        None,
        "how values become observations; log p differs by nats between treatments. Where None, a named set's own, else "
        '"binary" if all values are 0 and 1, else "real"',
        one_of=treatments,
    )
    root: str | os.PathLike[str] | None = option(
        None, "folder of downloaded data; where None, $PPVAE_DATA, else ~/.cache/ppvae"
    )
    num_train: int | None = option(None, "the number of training data that are kept, the first ones", at_least=1)
    labels: int | str | None = option(None, "the column of a .csv, by name or number, that is not part of x")
    data_seed: int = option(
        0, "of the static binarisation and of generated data; splits never depend on it", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.data, str) and not re.search(r"[.:/\\]", self.data):  # else it is a file
            require.one_of("data", self.data, SOURCES, ", or a file such as data.csv, data.npy or data.npz")

    def load(self, like: Preparation | None = None) -> Data:
        """The data, prepared as others were where `like` is given.

        Raises:
            PpvaeError: an unknown name, an unreadable file, unsuitable values, no download.
        """
        from ppvae.data.loading import load_data

        return load_data(
            self.data,
            treatment=self.treatment,
            root=self.root,
            seed=self.data_seed,
            num_train=self.num_train,
            labels=self.labels,
            like=like,
        )
