"""Escalation: each datum gets the cheapest method whose weights pass."""

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
from ppvae.evidence.estimates import Estimates, estimate, reported
from ppvae.evidence.method import Known, Sampler, check_options_of, prepared
from ppvae.evidence.plain import PLAIN, plain_columns
from ppvae.evidence.problem import Problem
from ppvae.evidence.rounding import Rounding
from ppvae.evidence.weights import MIN_ESS, khat_threshold
from ppvae.pair.model import overrides
from ppvae.pair.posterior import Posterior
from ppvae.randomness import stream

AUTO = "auto"
#: the methods after plain importance sampling, the cheapest first
ORDER = ("refined", "laplace", "ais")
#: the most AIS chains per datum, and the chains of its pilot: each costs thousands of gradients
_MOST_CHAINS, _PILOT_CHAINS = 200, 32
#: the least draws of a pilot
_LEAST_PILOT = 200
#: a pilot must promise this many times the required effective draws, as it is uncertain itself
_MARGIN = 1.25
#: the k̂ below which weights have a finite variance; between this and the threshold new draws would often fail
_FINITE_VARIANCE = 0.5
#: data per run of AIS, between two checks of the time
_AT_ONCE = 20
#: options of AIS from a guide close to the posterior: it needs fewer temperatures than from the prior
_FROM_NEAR: dict[str, Any] = {"start": "q", "num_temperatures": 50}
#: streams of random numbers of reported values and of pilots (plain importance sampling uses its usual stream)
_STREAM_FRESH, _STREAM_PILOT = stream("evidence/escalation/fresh"), stream("evidence/escalation/pilot")


@dataclass(frozen=True)
class Escalation:
    """The options of `auto`.

    Args:
        methods: to try after plain importance sampling, in this order; those that do not apply to the pair are
            skipped.
        pilot: draws of the pilot of each method, of AIS at most 32; where None, half of num_samples and at least 200.
        max_seconds: after this time no datum gets another method.
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
    """An `Escalation`, with options of a method under its name: {"max_seconds": 60, "ais": {"start": "q"}}."""
    return Escalation(methods, pilot, max_seconds, options)


def auto(problem: Problem, plan: Escalation, rounding: Rounding) -> tuple[Estimates, np.ndarray]:
    """Importance sampling; then, for data where it does not pass, refined, Laplace and annealed proposals.

    Where weights from a Gaussian do not pass, a Student t in its place is tried before the next method ("refined-t").
    A later method starts from the result of an earlier one, and AIS then needs few temperatures.

    A pilot decides for each datum: its weights must have a finite variance by k̂, and promise 100 effective draws out
    of num_samples (where num_samples is below 125, nothing else is tried). The reported estimate comes from new draws
    of the chosen method. Their k̂ and effective draws are checked again; where they fail, only AIS is still tried. A
    datum for which no method passes gets the method whose pilot had the largest value minus two standard errors, as
    all of them are lower bounds in expectation. A pilot cannot detect a mode of the posterior that no draw visits.

    Where q has no density on a part of the support of a latent, draws of the prior are weighed in place of draws of q.

    Returns:
        The columns of the chosen methods, with elbo and elbo_se of q as it is; also `iwae_bound` and `iwae_bound_se`,
        from exactly num_samples draws of q as it is; and the name of each datum's method.
    """
    first = "importance" if problem.fault is None else "prior"
    columns, plain = reported(problem, first, {}, rounding)
    assert isinstance(plain, Sampler)
    columns |= plain_columns(problem, rounding, columns)
    names = np.full(len(problem.x), first, dtype=object)
    if overrides(problem.model, "log_prob"):
        overwrite(columns, reported(problem, "exact", {}, rounding)[0], problem.everyone)
        names[:] = "exact"
    elif not bool(columns["ess"].isnan().all()) and problem.num_samples >= _MARGIN * MIN_ESS:
        search = _Search(problem, Candidate(first, plain, problem.num_samples), columns, plan)
        search.run()
        for again in (False, True):
            data = search.failed(columns) if again else problem.everyone
            for chosen, positions in search.chosen(data):
                source = chosen.source
                fresh = estimate(problem.at(positions, chosen.draws), source, _STREAM_FRESH, rounding)
                overwrite(columns, fresh, positions)
                if source.converged is not None:
                    converged = columns.setdefault("converged", torch.ones_like(columns["ok"]))
                    converged[positions] = source.converged[positions]
                names[positions.cpu().numpy()] = chosen.name
        left = int((search.left & ~columns["ok"].bool()).sum())
        if left:
            problem.notes[
                f"auto spent its {plan.max_seconds:g} s before {left} of {len(names)} data that do not pass had every "
                "method, so that their numbers depend on the speed of the machine: raise max_seconds"
            ] = None
    return columns, names.astype(str)


@dataclass
class Candidate:
    """A method that has had its pilot, and the draws that each of its data will get."""

    name: str
    source: Sampler
    draws: int


class _Search:
    """The pilots, which decide the method of each datum.

    Attributes:
        owner: for each datum the position of its method in `candidates` so far, [N].
        best: log p̂ minus two standard errors in that method's pilot, [N].
        promised: seconds that the new draws of AIS will take.
        left: whether time was up before a datum had every method, [N].
    """

    def __init__(self, problem: Problem, plain: Candidate, pilot: Estimates, plan: Escalation) -> None:
        self.problem, self.plan, self.plain_estimates = problem.at(problem.everyone), plan, pilot
        self.deadline = time.perf_counter() + plan.max_seconds
        self.pilot_draws = max(_LEAST_PILOT, problem.num_samples // 2) if plan.pilot is None else plan.pilot
        self.candidates = [plain]
        self.left = torch.zeros_like(problem.everyone, dtype=torch.bool)
        self.promised = 0.0
        self.owner, self.best = torch.zeros_like(problem.everyone), _cautious(pilot)

    def run(self) -> None:
        """Try each method in turn on the data for which no method has passed."""
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
        """Later methods start from the result of this one."""
        guide = source.start_guide
        if guide is not None:
            self.problem.start_guide = guide
        if isinstance(guide, Posterior):
            self.problem.posterior = guide

    def failed(self, columns: Estimates) -> Tensor:
        """Positions of the data whose new draws did not pass, as their pilot misled, and that AIS takes over."""
        annealed = self.owner.new_tensor([candidate.name == "ais" for candidate in self.candidates]).bool()
        data = self.problem.everyone[~columns["ok"].bool() & ~annealed[self.owner]]
        before, self.promised = self.owner.clone(), 0.0
        if "ais" in self.plan.methods:
            self.best[data] = _cautious(columns)[data]
            self._anneal(data)
        return (self.owner != before).nonzero().flatten()

    def chosen(self, data: Tensor) -> list[tuple[Candidate, Tensor]]:
        """Each method that was chosen for some of the data, with their positions."""
        groups = [(candidate, data[self.owner[data] == at]) for at, candidate in enumerate(self.candidates)]
        return [group for group in groups if len(group[1])]

    def _try_pilot(self, candidate: Candidate, data: Tensor, draws: int) -> Tensor:
        """Run the pilot of a method; returns the positions of the data for which it does not pass."""
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
            if passed.any():  # the number of chains that they need
                least = float(pilot["ess"][passed].min()) / draws
                candidate.draws = min(candidate.draws, math.ceil(_MARGIN * MIN_ESS / least))
            better = self._affordable(data, better, passed, seconds / draws / len(data) * candidate.draws)
        self.best[data[better]] = value[better]
        self.owner[data[better]] = len(self.candidates) - 1
        return data[~passed]

    def _affordable(self, data: Tensor, better: Tensor, passed: Tensor, each: float) -> Tensor:
        """Of the data that gain by the method, those whose new draws fit into the time; data that passed come first."""
        room = max(0, int((self.deadline - time.perf_counter() - self.promised) / each))
        self.left[data] |= better.cumsum(0) > room
        first = torch.argsort((better & passed).int() + better.int(), descending=True, stable=True)[:room]
        kept = torch.zeros_like(better)
        kept[first] = better[first]
        self.promised += each * int(kept.sum())
        return kept

    def _with_student_tails(self, candidate: Candidate, data: Tensor) -> Tensor:
        """Try the same proposal with a Student t in place of a Gaussian, which costs only another pilot."""
        if not len(data) or self._is_late(data):
            return data
        source = candidate.source.with_student_tails(self.problem.x)
        if source is not None:
            data = self._try_pilot(
                replace(candidate, name=f"{candidate.name}-t", source=source), data, self.pilot_draws
            )
        return data

    def _anneal(self, data: Tensor) -> None:
        """AIS for some data at a time; it stops where it passes for none of them, as it would for the next."""
        draws = min(self.problem.num_samples, _MOST_CHAINS)
        for part in data.split(_AT_ONCE):
            candidate = self._prepared("ais", part)
            if candidate is None:
                return
            left = self._try_pilot(replace(candidate, draws=draws), part, min(self.pilot_draws, _PILOT_CHAINS))
            if len(left) == len(part):
                return

    def _is_late(self, data: Tensor) -> bool:
        """Whether time is up for these data, which is kept."""
        late = time.perf_counter() >= self.deadline
        self.left[data] |= late
        return late

    def _prepared(self, name: str, data: Tensor) -> Candidate | None:
        """The method for these data, or None where it does not apply to the pair or time is up."""
        if not len(data) or self._is_late(data):
            return None
        given = self.plan.options.get(name)
        near = name == "ais" and self.problem.start_guide is not None
        for options in (given,) if given else (_FROM_NEAR, {}) if near else ({},):
            try:
                source = prepared(self.problem.at(data), name, options)
            except PpvaeError:
                if given:  # options of this method were given: their error must be reported
                    raise
                continue
            return None if isinstance(source, Known) else Candidate(name, source, self.problem.num_samples)
        return None


def _cautious(pilot: Estimates) -> Tensor:
    """log p̂ minus two standard errors, [A], so that one lucky draw does not make a method the best."""
    return pilot["log_marginal"] - 2 * pilot["log_marginal_se"]


def would_pass(pilot: Estimates, drawn: int, num_samples: int) -> Tensor:
    """Whether weights like these `drawn` would pass with num_samples draws, [A] bool."""
    khat = pilot["khat"]
    shape = khat.isnan() | (khat <= min(khat_threshold(drawn), _FINITE_VARIANCE))
    if drawn <= _PILOT_CHAINS:  # k̂ of a tail of six says nothing; enough effective draws show that weights are even
        shape = torch.ones_like(shape)
    return shape & (pilot["ess"] * num_samples / drawn >= _MARGIN * MIN_ESS)


def overwrite(columns: Estimates, better: Estimates, positions: Tensor) -> None:
    """Replace the estimates of some data by better ones; the bound of q as it is stays."""
    for name, column in columns.items():
        if name in ("elbo", "elbo_se", "converged", *PLAIN):
            continue
        new = better.get(name)
        if name == "running" and (new is None or new.shape[1:] != column.shape[1:]):
            columns[name] = column.clone().index_fill_(0, positions, math.nan)  # the number of draws differs
        elif new is not None:
            columns[name] = column.clone().index_copy_(0, positions, new.to(column))
