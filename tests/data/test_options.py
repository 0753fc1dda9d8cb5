"""The options of data give the data that `load_data` gives."""

import pytest
import torch

from ppvae.data.loading import load_data
from ppvae.data.options import DataOptions
from ppvae.data.treatment import TREATMENTS
from ppvae.errors import PpvaeError


def test_treatments_are_those_that_data_can_have() -> None:
    assert set(DataOptions.options()["treatment"].known() or ()) <= {*TREATMENTS}
    with pytest.raises(PpvaeError, match="unknown treatment 'sttic': did you mean 'static'"):
        DataOptions(treatment="sttic")


def test_every_option_reaches_the_data() -> None:
    options = DataOptions(data="digits", treatment="static", num_train=50, data_seed=3)
    data = options.load()
    same = load_data("digits", treatment="static", num_train=50, seed=3)
    assert torch.equal(data.train, same.train)
    assert data.source == same.source
    assert len(data.train) == 50
    assert not torch.equal(data.train, options.replace(data_seed=4).load().train)
    with pytest.raises(PpvaeError, match="labels=0 names a column"):
        options.replace(labels=0).load()
    with pytest.raises(PpvaeError, match="is a file"):
        DataOptions(data="mnist", root=__file__).load()
