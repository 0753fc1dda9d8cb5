"""The best q of a family for each datum, under a fixed model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppvae.blocks import Block
from ppvae.data.dataset import Data
from ppvae.data.treatment import likelihood_for
from ppvae.evidence.estimates import drawn
from ppvae.evidence.method import Sampler
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.pair.guide_family import make_family, set_family
from ppvae.pair.local import Layout
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.rows_of_guide import rows_of_guide
from ppvae.pair.sites import draw
from ppvae.pair.target import Target
from ppvae.randomness import block_seed, forked, reseed, seeded, stream
from ppvae.training.fitted import Fit
from ppvae.training.fitting import fit as train

#: streams of random numbers of the optimisation, of the draws that choose a start, and of the reported draws
STREAM_REFINE = stream("diagnostics/gap/refinement")
STREAM_CHOOSE = stream("diagnostics/gap/choice")
STREAM_REPORT = stream("diagnostics/gap/reported")
#: number of draws that choose a start
CHOICE_DRAWS = 1000


#: steps for which the weights of a flow are fitted, and their learning rate
FLOW_STEPS, FLOW_LR = 1500, 3e-3


@dataclass(frozen=True)
class BestQ:
    """The best q of a family for each datum.

    Attributes:
        bound: [N], on the draws by which it was chosen.
        start: [N], the name of the start that each came from.
    """

    posterior: Posterior
    bound: Tensor
    start: np.ndarray

    @property
    def converged(self) -> Tensor:
        assert self.posterior.converged is not None
        return self.posterior.converged


def best_of_own_family(problem: Problem, improve: Any) -> BestQ:
    """q* of the pair's own family; q itself is a candidate."""
    q, layout, start = problem.posterior, problem.pair.layout, problem.pair.start
    warm = improve(q)
    if not layout.width:
        rows = rows_of_guide(q, problem.x)
        if rows is None:
            return best_of(problem, {"q": warm})
        q, layout = rows, rows.model.layout()
        start = layout.start.to(problem.x)
        warm = Posterior(q.model, warm.phi, warm.converged)
    cold = Posterior(q.model, layout.unpack(start.repeat(len(problem.x), 1)))
    return best_of(problem, {"q": Posterior(q.model, q.phi, warm.converged), "warm": warm, "cold": improve(cold)})


def is_best_known(problem: Problem) -> bool:
    """Whether the best q of the pair's own family can be searched.

    False where the guide has no φ, and draws latents from distributions that cannot be written as rows of φ.
    """
    if problem.pair.layout.width:
        return True
    with torch.no_grad(), seeded(problem.seed, device=problem.x.device):
        sites = draw(problem.posterior, problem.x, 1).sites
    return not sites or rows_of_guide(problem.posterior, problem.x) is not None


def with_family(problem: Problem, name: str, options: Mapping[str, Any]) -> Model:
    """The model with another family of q."""
    model = copy.deepcopy(problem.model)
    model.guide_family = None
    return set_family(model, problem.x, name, options)


def best_of_family(
    problem: Problem, improve: Any, own: BestQ, model: Model, name: str, options: Mapping[str, Any]
) -> BestQ:
    """q* of another family under the same model; its warm start has the moments of the own family's q*."""
    if model.guide_modules:
        return best_of(problem, {"warm": improve(_fitted(problem, name, options))})
    layout = model.layout()
    starts = {
        "warm": _at_moments(problem, own.posterior, model, name, options),
        "cold": layout.start.to(problem.x).repeat(len(problem.x), 1),
    }
    return best_of(problem, {start: improve(Posterior(model, layout.unpack(rows))) for start, rows in starts.items()})


def _at_moments(problem: Problem, posterior: Posterior, model: Model, name: str, options: Mapping[str, Any]) -> Tensor:
    """Rows [N, width] at which a family has about the means and deviations of q in unconstrained space."""
    target = Target(problem.model, problem.x)
    rows = []
    with torch.no_grad(), forked(problem.x.device):
        for number, block in problem.blocks():
            reseed(block_seed(problem.seed, STREAM_CHOOSE, number), problem.x.device)
            values = draw(posterior.select(block.positions), problem.x[block.positions], CHOICE_DRAWS).raw_values
            u = target.unconstrained(values)[:, block.rows]
            for i, (mean, std) in enumerate(zip(u.mean(0), u.std(0).clamp_min(1e-4), strict=True)):
                sites, at = [], 0
                for site in target.sites:
                    mean_of, std_of = (part[at : at + site.size].reshape(site.mean.shape) for part in (mean, std))
                    sites.append(replace(site, mean=mean_of, std=std_of))
                    at += site.size
                made = make_family(name, sites, dict(options), model, block.x[i : i + 1])
                rows.append(Layout(made.phi).start)
    return torch.stack(rows).to(problem.x)


def _fitted(problem: Problem, name: str, options: Mapping[str, Any]) -> Posterior:
    """q of a family with weights of its own: weights and rows are fitted to the data on which it is judged."""
    size = len(problem.x)
    data = Data("gaps", problem.x, problem.x[:1], problem.x[:1], likelihood_for("real"), "real")
    epochs = math.ceil(FLOW_STEPS / math.ceil(size / 100))
    fitted = train(
        problem.pair if isinstance(problem.pair, Fit) else problem.pair.model,
        data, "per-datapoint", family=name, family_options=options, train_model=False, lr=FLOW_LR,
        inference_options={"max_steps": 1},  # for validation data, whose bound is not used
        epochs=epochs, eval_every=epochs, patience=None, accelerator=problem.x.device.type,
        precision="64-true" if problem.x.dtype == torch.float64 else "32-true",
        seed=block_seed(problem.seed, STREAM_REFINE) % 2**31, progress=False,
    )  # fmt: skip
    return fitted.posterior(problem.x, torch.arange(size))


def best_of(problem: Problem, candidates: Mapping[str, Posterior]) -> BestQ:
    """For each datum the candidate of the largest bound, on draws that all candidates share and nothing else uses."""
    names, posteriors = list(candidates), list(candidates.values())
    few = problem.at(problem.everyone, CHOICE_DRAWS)
    bounds = []
    for posterior in posteriors:
        sampler = Proposal(posterior.model, posterior)
        each = [all_weights(few, sampler, block, number, STREAM_CHOOSE)[1].mean(0) for number, block in few.blocks()]
        bounds.append(torch.cat(each).nan_to_num(nan=-math.inf))
    bound, winner = torch.stack(bounds).max(0)
    phi = {}
    for key, first in posteriors[0].phi.items():
        stacked = torch.stack([posterior.phi[key].expand(first.shape) for posterior in posteriors])
        phi[key] = stacked[winner, problem.everyone]
    converged = torch.stack([p.converged for p in posteriors if p.converged is not None])[winner, problem.everyone]
    chosen = Posterior(posteriors[0].model, phi, converged)
    return BestQ(chosen, bound, np.array(names)[winner.cpu().numpy()])


def all_weights(
    problem: Problem, sampler: Sampler, block: Block, number: int, stream: int
) -> tuple[Tensor, Tensor, bool]:
    """Log weights and bounds [S, B] of all draws for a block, and whether each is log p(x) itself.

    The same stream gives the same random numbers for every sampler.
    """
    parts = []
    with torch.no_grad(), forked(problem.x.device), pyro.validation_enabled(False):
        for some in drawn(problem, sampler, block, number, stream):
            log_w, bound = some.log_weight.double(), some.bound.double()
            if some.exact:
                return log_w.expand(problem.num_samples, -1), bound.expand(problem.num_samples, -1), True
            parts.append((log_w, bound))
    log_w, bound = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_w, bound, False
