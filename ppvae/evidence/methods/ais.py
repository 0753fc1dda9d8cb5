"""Annealed importance sampling as a method for log p(x)."""

from __future__ import annotations

from typing import Literal, get_args

from ppvae import require
from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.annealing import SCHEDULES, Annealing, Schedule, covers, temperatures
from ppvae.evidence.problem import Problem

Start = Literal["prior", "q"]


@METHODS.register("ais", order=6, applies=("continuous", "mixed"))
def ais(
    problem: Problem,
    *,
    num_temperatures: int = 500,
    schedule: Schedule = "sigmoid",
    num_leapfrog: int = 2,
    start: Start = "prior",
    num_tuning: int = 10,
    target_acceptance: float = 0.65,
) -> Annealing:
    """Annealed importance sampling with HMC transitions (Neal 2001; Wu, Burda, Salakhutdinov & Grosse 2017).

    A draw is a chain from u₀ ~ f_0 through HMC transitions that leave f_β invariant, β rising from 0 to 1:
    log w = Σₜ (log f_βₜ − log f_βₜ₋₁)(uₜ₋₁), E w = p(x). In unconstrained space f_β = p(u) p(x | u)^β, or from q
    f_β = q(u)^(1−β) p(x, u)^β. Step sizes are tuned in a separate run, for each datum and temperature, and then frozen.
    A chain costs T · num_leapfrog gradients; a few dozen chains are enough. Bad settings show in spread-out weights,
    and in `ppvae.bdmc`; more temperatures help. A result depends on chunk_size only where rounding (float32) changes
    an acceptance, after which the chain takes another path.

    Args:
        num_temperatures: T, steps of β from 0 to 1; 1 is plain importance sampling from the start.
        schedule: of β: "sigmoid" (slow at both ends), "linear", or "geometric" (slow near 0).
        num_leapfrog: steps of a trajectory, one gradient each.
        start: f_0: "prior", which does not use q, or "q".
        num_tuning: chains per datum in the tuning run.
        target_acceptance: the acceptance rate of the transitions that step sizes are tuned to.

    Raises:
        PpvaeError: an option is out of range, the pair has no continuous latents or draws discrete ones, or start="q"
            is given and the guide is not over the continuous latents alone.
    """
    require.count("num_temperatures", num_temperatures)
    require.one_of("schedule", schedule, SCHEDULES)
    require.count("num_leapfrog", num_leapfrog)
    require.one_of("start", start, get_args(Start))
    require.count("num_tuning", num_tuning)
    if require.positive("target_acceptance", target_acceptance) >= 1:
        raise PpvaeError(f"target_acceptance must lie between 0 and 1, got {require.show(target_acceptance)}")
    target = problem.target
    if start == "q" and not covers(target, problem.posterior, problem.x):
        raise PpvaeError(
            f'ais: start="q" needs a guide over the continuous latents alone, and the guide of '
            f'{type(problem.model).__name__} has others, or enumerates: use start="prior"'
        )
    if start == "q" and problem.start_guide is None:
        problem.require_density('ais with start="q"')
    posterior = (problem.start_guide or problem.posterior) if start == "q" else None
    betas = temperatures(num_temperatures, schedule)
    return Annealing(problem, posterior, betas, num_leapfrog, num_tuning, target_acceptance)
