"""Local variational parameters φ: one flat unconstrained row per datapoint, read as a dict of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pyro.distributions.constraints import softplus_positive
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraint_registry import transform_to

from ppvae import require
from ppvae.errors import PpvaeError

Phi = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Local:
    """One entry of φ.

    Args:
        start: value of one row before any inference, shape [*event].
        support: a `torch.distributions.constraints` object; `transform_to(support)` maps ℝⁿ onto it.
    """

    start: Tensor
    support: constraints.Constraint = field(default_factory=lambda: constraints.real)

    def __post_init__(self) -> None:
        if not isinstance(self.start, Tensor) or not self.start.is_floating_point():
            raise PpvaeError(f"Local(start) must be a floating-point tensor, got {require.show(self.start)}")
        if not isinstance(self.support, constraints.Constraint):
            raise PpvaeError(
                f"Local(support) must be one of torch.distributions.constraints, got {require.show(self.support)}"
            )
        if not bool(self.support.check(self.start).all()):
            raise PpvaeError(f"Local(start) lies outside its support {self.support}: {require.show(self.start)}")


class Layout:
    """Where each entry of φ lies in the flat row of `width` unconstrained numbers."""

    def __init__(self, phi: Mapping[str, Local]) -> None:
        self.entries: dict[str, tuple[slice, torch.Size, constraints.Constraint]] = {}
        rows, at = [], 0
        for name, local in phi.items():
            if not isinstance(local, Local):
                raise PpvaeError(f"phi[{name!r}] must be a ppvae.Local, got {type(local).__name__}")
            raw = transform_to(local.support).inv(local.start.detach())
            if not bool(raw.isfinite().all()):
                raise PpvaeError(f"phi[{name!r}] starts on the edge of its support {local.support}: move it inside")
            self.entries[name] = (slice(at, at + raw.numel()), raw.shape, local.support)
            rows.append(raw.reshape(-1))
            at += raw.numel()
        self.width = at
        self.start = torch.cat(rows) if rows else torch.zeros(0)

    def unpack(self, rows: Tensor) -> Phi:
        """Rows [*batch, width] → φ, each entry [*batch, *event], inside its support."""
        phi = {}
        for name, (where, shape, support) in self.entries.items():
            raw = rows[..., where]
            if len(shape) != 1:
                raw = raw.reshape(*rows.shape[:-1], *shape)
            phi[name] = raw if support is constraints.real else _constrained(raw, support)
        return phi

    def pack(self, phi: Mapping[str, Tensor], batch: int) -> Tensor:
        """φ → rows [batch, width]: the inverse of `unpack`."""
        if missing := self.entries.keys() ^ phi.keys():
            raise PpvaeError(f"φ must have the entries {sorted(self.entries)}, differs in {sorted(missing)}")
        rows = [
            transform_to(support).inv(phi[name]).reshape(batch, -1) for name, (_, _, support) in self.entries.items()
        ]
        return torch.cat(rows, -1) if rows else torch.zeros(batch, 0)


#: scales of q lie above e^−40, as the square of a smaller one is 0 in single precision; those through exp below e^40
_EDGE = 40.0
#: a Cholesky factor's diagonal is at least this part of each number in its row, so that it can be solved with
_CONDITION = 1e-3


def _constrained(raw: Tensor, support: constraints.Constraint) -> Tensor:
    """Unconstrained numbers in the support, where no scale is 0 or infinite and no Cholesky factor is singular."""
    if isinstance(support, type(softplus_positive)):  # by its type, as a copied model has a copy of it
        return transform_to(support)(raw).clamp_min(math.exp(-_EDGE))
    if isinstance(support, constraints.greater_than):
        return transform_to(support)(raw.clamp(-_EDGE, _EDGE))
    if isinstance(support, type(constraints.lower_cholesky)):
        diagonal = raw.diagonal(dim1=-2, dim2=-1).clamp(-_EDGE, _EDGE).exp()
        below = raw.tril(-1)
        if raw.shape[-1] > 1:
            diagonal = torch.maximum(diagonal, _CONDITION * below.detach().abs().amax(-1))
        return below + torch.diag_embed(diagonal)
    return transform_to(support)(raw)


def select(phi: Phi, index: Tensor) -> Phi:
    """The rows `index` of every entry of φ."""
    return {name: value[index] for name, value in phi.items()}
