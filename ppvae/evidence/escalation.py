"""Escalation: for each datum the cheapest method whose weights pass."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.evidence.estimates import Estimates, estimate
from ppvae.evidence.method import Known, Sampler, check_options_of, prepared
from ppvae.evidence.problem import Problem
from ppvae.evidence.weights import MIN_ESS, khat_threshold
from ppvae.pair.model import overrides
from ppvae.pair.posterior import Posterior
from ppvae.randomness import stream

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
#: options of AIS where something near the posterior is known: it needs fewer temperatures than from the prior
_FROM_NEAR: dict[str, Any] = {"start": "q", "num_temperatures": 50}
#: streams of random numbers: of what is reported, and of the pilots (plain importance sampling has its usual one)
_STREAM_FRESH, _STREAM_PILOT = stream("evidence/escalation/fresh"), stream("evidence/escalation/pilot")


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
    max_seconds: float = 20.0
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
            check_options_of(name, require.mapping(name, given))


def escalation(
    methods: Sequence[str] = ORDER, pilot: int | None = None, max_seconds: float = 20.0, **options: Mapping[str, Any]
) -> Escalation:
    """`Escalation` with the options of each method under its name: {"max_seconds": 60, "ais": {"start": "q"}}."""
    return Escalation(methods, pilot, max_seconds, options)


def auto(problem: Problem, plan: Escalation) -> tuple[Estimates, np.ndarray]:
    """Importance sampling where that passes, then refined, Laplace and annealed proposals for the data where not.

    Where weights from a Gaussian do not pass, a Student t in its place is tried before the next method ("refined-t").
    A later method starts from what an earlier one found, and AIS then needs few temperatures.

    A pilot decides for each datum: its weights must have a finite variance by k̂, and promise 100 effective draws out
    of num_samples (where that is fewer than 125 nothing is tried). What is reported comes from fresh draws of the
    method chosen, whose k̂ and effective draws are judged anew: where these fail, AIS is left. A datum that no method
    passes for gets the one whose pilot gave the largest value less two standard errors, as all of them are lower
    bounds in expectation. No such pilot can see a mode of the posterior that was never visited.

    Returns:
        The columns of the methods chosen, with elbo and elbo_se those of q as it is; besides `iwae_bound` and
        `iwae_bound_se`, from exactly num_samples draws of q as it is; and the name of each datum's method.
    """
    plain = prepared(problem, "importance")
    assert isinstance(plain, Sampler)
    found = estimate(problem, plain)
    found["iwae_bound"], found["iwae_bound_se"] = found["log_marginal"], found["log_marginal_se"]
    names = np.full(len(problem.x), "importance", dtype=object)
    if overrides(problem.model, "log_prob"):
        overwrite(found, estimate(problem, prepared(problem, "exact")), problem.everyone)
        names[:] = "exact"
    elif not bool(found["ess"].isnan().all()) and problem.num_samples >= _MARGIN * MIN_ESS:
        search = _Search(problem, plain, found, plan)
        search.run()
        for again in (False, True):
            data = search.failed(found) if again else problem.everyone
            for chosen, positions in search.chosen(data):
                source = chosen.source
                overwrite(found, estimate(problem.at(positions, chosen.draws), source, _STREAM_FRESH), positions)
                if source.converged is not None:
                    found.setdefault("converged", torch.ones_like(found["ok"]))[positions] = source.converged[positions]
                names[positions.cpu().numpy()] = chosen.name
    return found, names.astype(str)


@dataclass
class Candidate:
    """A method that had its pilot, and the draws that each of its data are to get."""

    name: str
    source: Sampler
    draws: int


class _Search:
    """The pilots: which method each datum is to have.

    Attributes:
        owner: of each datum the method that it has so far, in `candidates`, [N].
        best: log p̂ less two standard errors in that method's pilot, [N].
        promised: seconds that fresh draws of AIS will take.
    """

    def __init__(self, problem: Problem, plain: Sampler, pilot: Estimates, plan: Escalation) -> None:
        self.problem, self.plan, self.plain_estimates = problem.at(problem.everyone), plan, pilot
        self.deadline = time.perf_counter() + plan.max_seconds
        self.pilot_draws = max(_LEAST_PILOT, problem.num_samples // 2) if plan.pilot is None else plan.pilot
        self.candidates = [Candidate("importance", plain, problem.num_samples)]
        self.promised = 0.0
        self.owner, self.best = torch.zeros_like(problem.everyone), _cautious(pilot)

    def run(self) -> None:
        """Go from method to method with the data that none has passed for."""
        number = self.problem.num_samples
        pending = self.problem.everyone[~would_pass(self.plain_estimates, number, number)]
        pending = self._with_student_tails(self.candidates[0], pending)
        for name in self.plan.methods:
            if name == "ais":
                self._anneal(pending)
            elif (candidate := self._prepared(name, pending)) is not None:
                pending = self._with_student_tails(candidate, self._try_pilot(candidate, pending, self.pilot_draws))
                self._start_from(candidate.source)

    def _start_from(self, source: Sampler) -> None:
        """Later methods start from what this one has found."""
        guide = source.start_guide
        if guide is not None:
            self.problem.start_guide = guide
        if isinstance(guide, Posterior):
            self.problem.posterior = guide

    def failed(self, found: Estimates) -> Tensor:
        """Of the data whose fresh draws did not pass, those that go on to AIS after all, their pilot having misled."""
        annealed = self.owner.new_tensor([candidate.name == "ais" for candidate in self.candidates]).bool()
        data = self.problem.everyone[~found["ok"].bool() & ~annealed[self.owner]]
        before, self.promised = self.owner.clone(), 0.0
        if "ais" in self.plan.methods:
            self.best[data] = _cautious(found)[data]
            self._anneal(data)
        return (self.owner != before).nonzero().flatten()

    def chosen(self, data: Tensor) -> list[tuple[Candidate, Tensor]]:
        """Each method that was chosen for some of the data, and their positions."""
        groups = [(candidate, data[self.owner[data] == at]) for at, candidate in enumerate(self.candidates)]
        return [group for group in groups if len(group[1])]

    def _try_pilot(self, candidate: Candidate, data: Tensor, draws: int) -> Tensor:
        """The pilot of a method; those of the data that it does not pass for."""
        if not len(data):
            return data
        self.candidates.append(candidate)
        start = time.perf_counter()
        pilot = estimate(self.problem.at(data, draws), candidate.source, _STREAM_PILOT + len(self.candidates))
        seconds = time.perf_counter() - start
        passed = would_pass(pilot, draws, candidate.draws)
        value = _cautious(pilot)
        better = passed | (value > self.best[data])
        if candidate.name == "ais":
            if passed.any():  # as many chains as they need
                least = float(pilot["ess"][passed].min()) / draws
                candidate.draws = min(candidate.draws, math.ceil(_MARGIN * MIN_ESS / least))
            better = self._affordable(better, passed, seconds / draws / len(data) * candidate.draws)
        self.best[data[better]] = value[better]
        self.owner[data[better]] = len(self.candidates) - 1
        return data[~passed]

    def _affordable(self, better: Tensor, passed: Tensor, each: float) -> Tensor:
        """Of the data that are better off those for which fresh draws are done in time, those that passed first."""
        room = max(0, int((self.deadline - time.perf_counter() - self.promised) / each))
        first = torch.argsort((better & passed).int() + better.int(), descending=True, stable=True)[:room]
        kept = torch.zeros_like(better)
        kept[first] = better[first]
        self.promised += each * int(kept.sum())
        return kept

    def _with_student_tails(self, candidate: Candidate, data: Tensor) -> Tensor:
        """The same proposal with the tails of a Student t, where it is a Gaussian: no more than another pilot."""
        if not len(data) or time.perf_counter() >= self.deadline:
            return data
        source = candidate.source.with_student_tails(self.problem.x)
        if source is not None:
            data = self._try_pilot(
                replace(candidate, name=f"{candidate.name}-t", source=source), data, self.pilot_draws
            )
        return data

    def _anneal(self, data: Tensor) -> None:
        """AIS for some data at a time; where it passes for none of them it will not for the next."""
        draws = min(self.problem.num_samples, _MOST_CHAINS)
        for part in data.split(_AT_ONCE):
            candidate = self._prepared("ais", part)
            if candidate is None:
                return
            left = self._try_pilot(replace(candidate, draws=draws), part, min(self.pilot_draws, _PILOT_CHAINS))
            if len(left) == len(part):
                return

    def _prepared(self, name: str, data: Tensor) -> Candidate | None:
        """The method for these data, or None where it does not apply to the pair or time is up."""
        if not len(data) or time.perf_counter() >= self.deadline:
            return None
        given = self.plan.options.get(name)
        near = name == "ais" and self.problem.start_guide is not None
        for options in (given,) if given else (_FROM_NEAR, {}) if near else ({},):
            try:
                source = prepared(self.problem.at(data), name, options)
            except PpvaeError:
                if given:  # for this very method: what is wrong with them must be said
                    raise
                continue
            return None if isinstance(source, Known) else Candidate(name, source, self.problem.num_samples)
        return None


def _cautious(pilot: Estimates) -> Tensor:
    """log p̂ less two standard errors, [A]: one lucky draw does not make a method the best."""
    return pilot["log_marginal"] - 2 * pilot["log_marginal_se"]


def would_pass(pilot: Estimates, drawn: int, num_samples: int) -> Tensor:
    """Whether weights like these `drawn` would pass with num_samples draws, [A] bool."""
    khat = pilot["khat"]
    shape = khat.isnan() | (khat <= min(khat_threshold(drawn), _FINITE_VARIANCE))
    if drawn <= _PILOT_CHAINS:  # a tail of six says nothing, and effective draws enough that weights are even
        shape = torch.ones_like(shape)
    return shape & (pilot["ess"] * num_samples / drawn >= _MARGIN * MIN_ESS)


def overwrite(found: Estimates, better: Estimates, positions: Tensor) -> None:
    """Put the estimates of some data in place of what there is; the bound of q as it is stays."""
    for name, column in found.items():
        if name in ("elbo", "elbo_se", "converged", *PLAIN):
            continue
        new = better.get(name)
        if name == "running" and (new is None or new.shape[1:] != column.shape[1:]):
            found[name] = column.clone().index_fill_(0, positions, math.nan)  # of another number of draws
        elif new is not None:
            found[name] = column.clone().index_copy_(0, positions, new.to(column))
