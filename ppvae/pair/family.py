"""Families of q(z | φ) for any model, in unconstrained space.

Each is made from the local sites of a model and declares its local parameters. A joint over several sites is
written as q(z¹) q(z² | z¹) …, in the model's own order, so that every site has a distribution of its own; T_s is the
bijection from ℝⁿ onto the support of site s. The ladder is made from the model itself, and takes Gaussian latents only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae.catalogue import FAMILIES
from ppvae.pair.bijections import bijection_onto
from ppvae.pair.local import Local, Phi
from ppvae.pair.supports import Circle, inner


@dataclass(frozen=True)
class LocalSite:
    """A local latent: its support, the dims of its event, and the start of its unconstrained value [*raw]."""

    name: str
    support: constraints.Constraint
    event_dim: int
    mean: Tensor
    std: Tensor

    @property
    def size(self) -> int:
        """Numbers in the unconstrained value."""
        return self.mean.numel()

    @property
    def periodic(self) -> bool:
        """Whether each coordinate is an angle."""
        return isinstance(inner(self.support), Circle)


class Family:
    """q(z | φ) over the latents of a model, and the declaration of its local parameters.

    A subclass takes the latents, sets `phi`, and is called as a guide.

    Attributes:
        phi: the local parameters.
        net: the weights that q owns, shared by all data, or None.
        uses_model: whether q depends on θ; such a family also takes the model and some data x.
        differentiable_once: whether the gradients of its draws cannot be differentiated again.
        takes_angles: whether it is periodic in a latent that is an angle.
    """

    catalogue: ClassVar = FAMILIES
    uses_model: ClassVar[bool] = False
    differentiable_once: ClassVar[bool] = False
    takes_angles: ClassVar[bool] = False

    phi: dict[str, Local]
    net: nn.Module | None = None

    def __call__(self, x: Tensor, phi: Phi) -> None:
        raise NotImplementedError


def sample_site(site: LocalSite, q: Any) -> Tensor:
    """Sample a site from q over its unconstrained event; returns the unconstrained value [..., B, size]."""
    if site.support is constraints.real:
        value = pyro.sample(site.name, q)
        raw = value
    else:
        bijection = bijection_onto(site.support).with_cache()
        q = dist.TransformedDistribution(q, [bijection])
        value = pyro.sample(site.name, q.to_event(site.event_dim - len(q.event_shape)))
        raw = bijection.inv(value)
    return raw.flatten(raw.dim() - site.mean.dim()) if site.mean.dim() else raw.unsqueeze(-1)


def shaped(site: LocalSite, q: Any) -> Any:
    """A distribution over flat vectors [size] as one over the site's unconstrained event."""
    if site.mean.dim() == 1:
        return q
    reshape = dist.transforms.ReshapeTransform(torch.Size([site.size]), site.mean.shape, cache_size=1)
    return dist.TransformedDistribution(q, [reshape])


class JointFamily(Family):
    """A family over the concatenated unconstrained sites: mean and standard deviation [D] at the start."""

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.mean = torch.cat([site.mean.flatten() for site in sites])
        self.std = torch.cat([site.std.flatten() for site in sites])

    def parts(self) -> Iterator[tuple[LocalSite, slice]]:
        """Each site with its place in the vector."""
        at = 0
        for site in self.sites:
            yield site, slice(at, at + site.size)
            at += site.size
