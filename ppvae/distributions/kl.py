"""KL divergences in closed form that torch does not have: from correlated to independent Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, register_kl


def _independent(p: Independent) -> tuple[Tensor, Tensor]:
    """Mean and variance [..., D] of independent Normals over a vector."""
    base = p.base_dist
    if not isinstance(base, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return base.loc, base.variance


def _gaussian(q_mean: Tensor, q_variance: Tensor, log_det: Tensor, p: Independent) -> Tensor:
    """½ Σ (vᵢ + (mᵢ − μᵢ)²)/σᵢ² + log σᵢ² − 1, minus ½ log |Σ_q|; v is the diagonal of Σ_q."""
    mean, variance = _independent(p)
    terms = (q_variance + (q_mean - mean).square()) / variance + variance.log() - 1
    return 0.5 * (terms.sum(-1) - log_det)


@register_kl(MultivariateNormal, Independent)
def _full(q: MultivariateNormal, p: Independent) -> Tensor:
    tril = q.scale_tril
    return _gaussian(q.loc, tril.square().sum(-1), 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1), p)


@register_kl(LowRankMultivariateNormal, Independent)
def _low_rank(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    factor, diagonal = q.cov_factor, q.cov_diag
    # |W Wᵀ + D| = |D| |I + Wᵀ D⁻¹ W|
    inner = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inner = inner + factor.mT @ (factor / diagonal.unsqueeze(-1))
    log_det = diagonal.log().sum(-1) + torch.logdet(inner)
    return _gaussian(q.loc, factor.square().sum(-1) + diagonal, log_det, p)
