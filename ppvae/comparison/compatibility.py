"""Which strategies and families go with a model and its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError
from ppvae.options import check_options
from ppvae.pair.guide_family import set_family
from ppvae.pair.model import Model
from ppvae.pair.zoo import build
from ppvae.randomness import seeded
from ppvae.training.preparation import require_sound, start_model
from ppvae.training.settings import STRATEGY_ARGUMENTS
from ppvae.variational.strategy import strategy_class


def combinations(
    name: str,
    kind: type[Model],
    options: Mapping[str, Any],
    data: Data,
    strategies: list[str],
    families: list[str | None],
    own: Mapping[str, Mapping[str, Any]],
    family_options: Mapping[str, Any],
    *,
    explicit: bool,
) -> list[tuple[str, str | None]]:
    """The strategies and families that go with each other, the model and the data.

    A family without a strategy is an error, and so is a strategy that was given by name and goes with no family.
    """
    allowed: list[tuple[str, str | None]] = []
    refusals: dict[str, str] = {}
    for family in families:
        with seeded(0, device=data.train.device):
            model = build(name, kind, options)
            x = start_model(model, data)
        require_sound(name, model, data, x)
        set_family(model, x, family, family_options if family is not None else None)
        refused = {s: why for s in strategies if (why := _refusal(s, model, data, x, own.get(s, {})))}
        if len(refused) == len(strategies):
            raise PpvaeError(next(iter(refused.values())))
        refusals |= refused
        allowed += [(strategy, family) for strategy in strategies if strategy not in refused]
    for strategy, why in refusals.items():
        if (explicit or strategy in own) and all(strategy != s for s, _ in allowed):
            raise PpvaeError(why)
    return sorted(allowed, key=lambda pair: strategies.index(pair[0]))


def _refusal(strategy: str, model: Model, data: Data, x: Tensor, options: Mapping[str, Any]) -> str | None:
    """Why the strategy does not go with the model, the data or its options; None if it does."""
    cls = strategy_class(strategy)
    if data.dynamic and cls.has_rows:
        return f"{strategy} keeps a row for each fixed datapoint: use a treatment other than dynamic"
    try:
        check_options(strategy, cls, options, STRATEGY_ARGUMENTS)
        with seeded(0, device=x.device):
            cls(model, x[:2], **options).to(x.dtype)
    except PpvaeError as error:
        return str(error)
    return None
