"""The table of methods: each works on the kinds of pairs it says, and refuses the others in one line."""

from functools import cache

import numpy as np
import pytest
import torch
from pairs import MODELS, X, fitted, truth

import ppvae
from ppvae import PpvaeError
from ppvae.evidence.method import METHODS, PAIRS, table

#: settings that save time
QUICK = {"ais": {"num_temperatures": 20, "num_leapfrog": 2}}


@cache
def fit(pair: str) -> ppvae.Fit:
    torch.manual_seed(3)
    options = {"gradient": "score"} if pair == "drawn" else {}
    return fitted(MODELS[pair](), X.repeat(10, 1) + 0.3 * torch.randn(30, 3, dtype=torch.float64), **options)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_applies_where_the_table_says(method: str, pair: str) -> None:
    """p̂/p − 1 is 0 within its standard error, over 3 data; elsewhere one line says what is wrong.

    z = 4.5, with fewer than 12 × 5 × 3 comparisons: false alarms < 2e-3 over seeds, which are fixed.
    """
    asked = {"method": method, "num_samples": 400, "seed": 5, "options": QUICK.get(method)}
    if pair not in METHODS.facts(method)["applies"]:
        with pytest.raises(PpvaeError) as caught:
            ppvae.log_marginal(fit(pair), X, **asked)
        assert "\n" not in str(caught.value)
        return
    estimates = ppvae.log_marginal(fit(pair), X, **asked)
    off = np.exp(estimates.log_marginal.values - truth(fit(pair).model, X).numpy()) - 1
    se = np.nan_to_num(estimates.log_marginal_se.values)
    assert (np.abs(off) <= 4.5 * se + 1e-8).all()
    assert (se < 0.5).all()
    assert estimates.sizes["datum"] == len(X)


def test_pairs_are_what_they_are_called() -> None:
    """One pair for each column of the table."""
    assert MODELS.keys() == PAIRS.keys()


def test_methods_stand_in_the_table_by_what_they_ask_of_a_pair() -> None:
    """From the naive to the exact; each row has as many cells as there are columns."""
    names = list(METHODS)
    assert names[:3] == ["uniform", "prior", "importance"]
    assert names.index("exact") > names.index("laplace")
    rows = table().splitlines()
    assert len(rows) == len(METHODS) + 2
    assert {row.count("|") for row in rows} == {len(PAIRS) + 3}
