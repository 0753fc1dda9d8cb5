"""Escalation: for each datum the cheapest method whose weights pass."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.evidence.estimate import Estimates, answer
from ppvae.evidence.importance import importance
from ppvae.evidence.method import METHODS, Certain, Question, Sampler
from ppvae.model import overrides
from ppvae.reliability import MIN_ESS, khat_threshold

AUTO = "auto"
#: column → units of what stands beside the numbers of the methods chosen: the estimate from q as it is
PLAIN = {"iwae_bound": "nats/datum", "iwae_bound_se": "nats/datum"}
#: what follows plain importance sampling, the cheapest first
ORDER = ("refined", "laplace", "ais")
#: the most chains of AIS a datum, and those of its pilot: each costs thousands of gradients
_MOST_CHAINS, _PILOT_CHAINS = 200, 32
#: draws of a pilot at least
_LEAST_PILOT = 200
#: a pilot must promise so many times the effective draws that are asked for: it is not certain itself
_MARGIN = 1.25
#: the k̂ below which weights have a finite variance; between this and the threshold fresh draws would often fail
_FINITE_VARIANCE = 0.5
#: data to which AIS is given at a time, between two looks at the clock
_AT_ONCE = 20
#: streams of random numbers: of what is reported, and of the pilots (plain importance sampling has its usual one)
_STREAM_FRESH, _STREAM_PILOT = 6, 60


@dataclass(frozen=True)
class Escalation:
    """How far `auto` goes.

    Args:
        methods: to try after plain importance sampling, in this order; those that do not apply to the pair are left
            out.
        pilot: draws of the pilot of each, of AIS 32 at most; where None, half of num_samples and at least 200.
        max_seconds: no datum goes on to another method after so many.
        options: {method: its options}.

    Raises:
        PpvaeError: an unknown method or option, or a number out of range.
    """

    methods: Sequence[str] = ORDER
    pilot: int | None = None
    max_seconds: float = 30.0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.methods, str) or not isinstance(self.methods, Sequence):
            raise PpvaeError(f"methods must be a list of names like {list(ORDER)}, got {require.show(self.methods)}")
        for name in self.methods:
            require.one_of("method of auto", name, ("importance", *ORDER))
        if self.pilot is not None:
            require.count("pilot", self.pilot)
        require.positive("max_seconds", self.max_seconds, zero=True)
        for name, given in self.options.items():
            require.one_of("option of auto", name, ("methods", "pilot", "max_seconds", *self.methods))
            METHODS[name].check(require.mapping(name, given))


def escalation(
    methods: Sequence[str] = ORDER, pilot: int | None = None, max_seconds: float = 30.0, **options: Mapping[str, Any]
) -> Escalation:
    """`Escalation` with the options of each method under its name: {"max_seconds": 30, "ais": {"start": "q"}}."""
    return Escalation(methods, pilot, max_seconds, options)


def auto(asked: Question, plan: Escalation) -> tuple[Estimates, np.ndarray]:
    """Importance sampling where that passes, then refined, Laplace and annealed proposals for the data where not.

    A pilot decides for each datum: its weights must have a finite variance by k̂, and promise 100 effective draws out
    of num_samples (where that is fewer than 125 nothing is tried). What is reported comes from fresh draws of the
    method chosen, whose k̂ and effective draws are judged anew. A datum that no method passes for gets the one whose
    pilot gave the largest value, as all of them are lower bounds in expectation. No such pilot can see a mode of the
    posterior that was never visited.

    Returns:
        The columns of the methods chosen, with elbo and elbo_se those of q as it is; besides `iwae_bound` and
        `iwae_bound_se`, from exactly num_samples draws of q as it is; and the name of each datum's method.
    """
    plain = importance(asked)
    found = answer(asked, plain)
    found["iwae_bound"], found["iwae_bound_se"] = found["log_marginal"], found["log_marginal_se"]
    names = np.full(len(asked.x), "importance", dtype=object)
    if overrides(asked.model, "log_prob"):
        _take(found, answer(asked, METHODS["exact"].prepare(asked)), asked.everyone)
        names[:] = "exact"
    elif not bool(found["ess"].isnan().all()) and asked.num_samples >= _MARGIN * MIN_ESS:
        for name, source, positions in _escalate(asked, plain, found, plan):
            draws = _draws(name, asked.num_samples)
            _take(found, answer(asked.at(positions, draws), source, _STREAM_FRESH), positions)
            if source.converged is not None:
                found.setdefault("converged", torch.ones_like(found["ok"]))[positions] = source.converged[positions]
            names[positions.cpu().numpy()] = name
    return found, names.astype(str)


def _escalate(
    asked: Question, plain: Sampler, looked: Estimates, plan: Escalation
) -> list[tuple[str, Sampler, Tensor]]:
    """(method, its sampler, positions of the data it was chosen for); plain importance sampling was looked at."""
    deadline = time.perf_counter() + plan.max_seconds
    pilot = max(_LEAST_PILOT, asked.num_samples // 2) if plan.pilot is None else plan.pilot
    tried: list[tuple[str, Sampler]] = [("importance", plain)]
    owner = torch.zeros_like(asked.everyone)
    best = looked["log_marginal"].clone()
    pending = asked.everyone[~_promises(looked, asked.num_samples, asked.num_samples)]
    for name in plan.methods:
        remaining = []
        for part in pending.split(_AT_ONCE if name == "ais" else max(1, len(pending))):
            late = time.perf_counter() >= deadline
            source = None if late else _prepared(asked.at(part), name, plan.options.get(name, {}))
            if source is None or not len(part):
                remaining.append(part)
                continue
            tried.append((name, source))
            draws = min(pilot, _PILOT_CHAINS) if name == "ais" else pilot
            looked = answer(asked.at(part, draws), source, _STREAM_PILOT + len(tried))
            passed = _promises(looked, draws, _draws(name, asked.num_samples))
            better = passed | (looked["log_marginal"] > best[part])
            best[part[better]] = looked["log_marginal"][better]
            owner[part[better]] = len(tried) - 1
            remaining.append(part[~passed])
        pending = torch.cat(remaining)
    groups = [(*entry, (owner == at).nonzero().flatten()) for at, entry in enumerate(tried)]
    return [group for group in groups if len(group[2])]


def _promises(looked: Estimates, drawn: int, num_samples: int) -> Tensor:
    """Whether weights like these `drawn` would pass with num_samples draws, [A] bool."""
    khat = looked["khat"]
    shape = khat.isnan() | (khat <= min(khat_threshold(drawn), _FINITE_VARIANCE))
    return shape & (looked["ess"] * num_samples / drawn >= _MARGIN * MIN_ESS)


def _prepared(asked: Question, name: str, options: Mapping[str, Any]) -> Sampler | None:
    """The method's sampler, or None where it does not apply to the pair."""
    try:
        source = METHODS[name].prepare(asked, **options)
    except PpvaeError:
        if options:  # given for this very method: what is wrong with them must be said
            raise
        return None
    return None if isinstance(source, Certain) else source


def _draws(name: str, num_samples: int) -> int:
    return min(num_samples, _MOST_CHAINS) if name == "ais" else num_samples


def _take(found: Estimates, better: Estimates, positions: Tensor) -> None:
    """Put the estimates of some data in place of what there is; the bound of q as it is stays."""
    for name, column in found.items():
        if name in ("elbo", "elbo_se", "converged", *PLAIN):
            continue
        new = better.get(name)
        if name == "running" and (new is None or new.shape[1:] != column.shape[1:]):
            found[name] = column.clone().index_fill_(0, positions, math.nan)  # of another number of draws
        elif new is not None:
            found[name] = column.clone().index_copy_(0, positions, new.to(column))
