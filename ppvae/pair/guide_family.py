"""The family that a model gets as its guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppvae.catalogue import FAMILIES
from ppvae.errors import PpvaeError
from ppvae.options import check_options
from ppvae.pair.family import Family, LocalSite
from ppvae.pair.latents import local_sites
from ppvae.pair.model import Model, overrides

#: the family of a model that has no guide of its own
DEFAULT = "mean-field"


def set_family(model: Model, x: Tensor, family: str | None = None, options: Mapping[str, Any] | None = None) -> Model:
    """Give the model the named family, or its default guide and φ where it declares none; returns the same model.

    Args:
        x: some data [B, *event]; only its shape, and the prior given it, matters.
        family: a family of `families` in place of the model's own guide; where None, the model's own, else a mean
            field.
        options: of the family.

    Raises:
        PpvaeError: a guide without phi, or phi without a guide; a latent without a mean field (a count), which needs a
            guide; or a latent that the named family cannot take.
    """
    if model.guide_family is not None or (family is None and overrides(model, "guide")):
        return model
    if family is None and model.phi:
        raise PpvaeError(f"{type(model).__name__} declares phi and no guide: write guide(x, phi), or remove phi")
    sites = local_sites(model, x)
    made = make_family(family or DEFAULT, sites, dict(options or {}), model, x[:4])
    model.guide_family = made
    model.phi = made.phi
    net = made.net
    # the weights of the replaced guide would never learn
    model.guide_modules = () if family is not None else model.guide_modules
    if net is not None:
        model.family_net = net.to(x.dtype if x.is_floating_point() else torch.get_default_dtype())
        model.guide_modules = ("family_net",)
    return model


def make_family(name: str, sites: list[LocalSite], options: dict[str, Any], model: Model, x: Tensor) -> Family:
    """The family of that name over the sites of a model of data x [B, *event].

    Raises:
        PpvaeError: an unknown name or option, or a model without local latents or with any that the family cannot take.
    """
    cls = FAMILIES[name]
    check_options(name, cls, options, skip=("self", "sites", "model", "x"))
    if not sites:
        if name == DEFAULT:
            return cls(sites)
        raise PpvaeError(f"family {name!r} needs a local latent, and the model has none: remove family")
    angle = next((site.name for site in sites if site.periodic), None)
    if angle is not None and not cls.takes_angles:
        others = " or ".join(repr(other) for other in FAMILIES if FAMILIES[other].takes_angles)
        raise PpvaeError(f"latent {angle!r} is an angle, and family {name!r} is not periodic: use {others}")
    if cls.uses_model:
        return cls(sites, model, x, **options)
    return cls(sites, **options)
