"""Fits whose posterior is known: pPCA and a mixture, with parameters of order one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

import ppvae
from ppvae.models import GMM, PPCA


def trained(model: ppvae.Model, x: Tensor, inference: str = "exact", **options: Any) -> ppvae.Fit:
    kind = ("bernoulli", "binary") if bool(((x == 0) | (x == 1)).all()) else ("gaussian", "real")
    data = ppvae.Data("given", x, x[:4], x[:4], *kind)
    return ppvae.fit(model, data, inference, **{"epochs": 1, "progress": False, **options})


def linear(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> ppvae.Fit:
    """pPCA with parameters of order one in float64; q is the posterior, of loc [B, 2] and Cholesky factor, changed."""
    torch.manual_seed(5)
    fit = trained(PPCA(4, 2), torch.randn(30, 4), precision="64-true")
    with torch.no_grad():
        for p in fit.model.parameters():
            p.copy_(torch.randn_like(p))
    if change is not None:
        exact = fit.model.exact_phi

        def changed(x: Tensor) -> dict[str, Tensor]:
            loc, tril = change(*exact(x).values())
            return {"loc": loc, "scale_tril": tril}

        fit.model.exact_phi = changed
    return fit


def mixture(inference: str = "exact") -> ppvae.Fit:
    """Three overlapping components of unequal weights."""
    torch.manual_seed(7)
    fit = trained(GMM(2, 3), torch.randn(60, 2), inference)
    with torch.no_grad():
        model = cast(GMM, fit.model)
        model.logits.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
        model.raw_loc.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.5, -1.0]]))
    return fit


def to_the_prior(loc: Tensor, tril: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(loc), torch.eye(2, dtype=loc.dtype).expand_as(tril)
