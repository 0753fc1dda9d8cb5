"""What inference loses, and where: the gap between log p(x) and the ELBO, split up."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.data import LIKELIHOODS, Data
from ppvae.errors import PpvaeError
from ppvae.evidence import METHODS
from ppvae.evidence.estimate import answer, certain, drawn, summary
from ppvae.evidence.method import Block, Question, Sampler
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.refined import widened
from ppvae.families import FAMILIES, FAMILY_CLASSES, FamilyName, make_family
from ppvae.family import prepare
from ppvae.fitted import Fit, require_fit
from ppvae.fitting import fit as train
from ppvae.local import Layout
from ppvae.marginal import check_method, log_marginal
from ppvae.model import Model
from ppvae.posterior import Posterior
from ppvae.randomness import block_seed, forked, reseed
from ppvae.refinement import refine
from ppvae.registry import check_options
from ppvae.reliability import Weights, khat_threshold
from ppvae.sites import draw
from ppvae.target import Target

#: streams of random numbers: of the optimisation, of the draws that choose a start, of those that are reported
_STREAM_REFINE, _STREAM_CHOOSE, _STREAM_REPORT = 51, 52, 53
#: draws that choose a start
_CHOOSE = 1000
#: the columns of log p(x)
_OF_P = ("log_marginal", "log_marginal_se", "ess", "khat", "ok")
#: units of columns that are not in nats
_UNITS = {"ess": "draws", "khat": "", "ok": "", "converged": "", "family_converged": ""}
#: steps by which the weights of a flow are fitted, and their learning rate
_FLOW_STEPS, _FLOW_LR = 1500, 3e-3


def gaps(
    fit: Fit,
    x: Tensor,
    index: Tensor | None = None,
    *,
    families: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    num_samples: int = 1000,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.03,
    max_steps: int = 1000,
    tolerance: float = 0.02,
    particles: int = 16,
    seed: int = 0,
) -> xr.Dataset:
    """Split log p(x) − L[q] into what the family loses and what the source of φ loses.

    L[q*] is the bound of the best q of the same family for each datum by itself, under the same model:

        log p(x) − L[q] = (log p(x) − L[q*])   approximation gap: the family
                        + (L[q*] − L[q])       amortization gap: the encoder; for rows of a table, their optimisation

    (Cremer, Li & Duvenaud 2018, "Inference Suboptimality in Variational Autoencoders"). q* is looked for from two
    starts, q itself (warm) and the declared φ (cold). Which is better is decided on draws that nothing else uses, so
    that the bounds reported, from fresh draws, have no bias from the choice. What the optimiser misses of q* counts
    against the family: the approximation gap is that much too large, and the amortization gap too small. Errors are
    paired: the same random numbers drive the draws of q and of q*, and those behind log p(x).

    Args:
        fit: a trained pair; nothing of it changes.
        x: data [N, *event]; training and test data have gaps of their own.
        index: positions of x in the training set, where q is to be what training left there.
        families: names of other families, or {name: options}, each optimised for each datum under the same model.
            Those that own weights (the flows) are fitted to x first.
        num_samples: draws behind each reported number.
        method: of `log_marginal`, for log p(x); where None, "exact" if that applies, else importance sampling from a
            slightly widened q*, of the family whose bound is the tightest.
        options: of the method.
        lr, max_steps, tolerance, particles: of the optimisation, as `ppvae.refinement.refine` has them; more particles
            bring it nearer to the optimum.
        seed: of all draws; the caller's random state is left alone.

    Returns:
        Dataset over dim `datum` in nats: elbo, elbo_star, log_marginal, approximation_gap, amortization_gap, each with
        its standard error `_se`; ess, khat, ok of log_marginal: where ok is False it is a lower bound, and the
        approximation gap with it; converged; start, where q* came from: "warm", "cold", or "q" where neither was
        better than q. With families, over (family, datum): family_elbo_star; family_gap = log p(x) − family_elbo_star;
        family_gain = family_elbo_star − elbo_star, what another family would gain without a better encoder's help, each
        with its error; family_converged. `ppvae.summarise(found, "amortization_gap")` averages over data.

    Raises:
        PpvaeError: x of the wrong shape or not finite, arguments out of range, an unknown family, method or option, or
            a family that the latents of the model do not fit.
    """
    require_fit(fit)
    require.count("num_samples", num_samples, least=2)
    require.count("seed", seed, least=0)
    others = _checked(families)
    if method is None and options is not None:
        raise PpvaeError("options are of a method of log_marginal: name one")
    if method is not None:
        check_method(method, options)
    x = fit.as_input(x)
    asked = Question(fit, x, index, seed, num_samples)
    if method is None:
        p = _exact(asked)
    else:
        estimates = log_marginal(fit, x, index, num_samples=num_samples, method=method, options=options, seed=seed)
        p = {name: torch.as_tensor(estimates[name].values, device=x.device) for name in _OF_P}
    improve = partial(
        refine,
        x=x,
        lr=lr,
        max_steps=max_steps,
        tolerance=tolerance,
        particles=particles,
        seed=block_seed(seed, _STREAM_REFINE),
    )
    models = [_with_family(asked, name, of) for name, of in others.items()]
    own = _own(asked, improve)
    stars = {
        name: _of_family(asked, improve, own, model, name, of)
        for model, (name, of) in zip(models, others.items(), strict=True)
    }
    columns = _report(asked, own, stars, p)
    data: dict[str, Any] = {}
    for name, column in columns.items():
        dims = ("datum",) if column.dim() == 1 else ("family", "datum")
        data[name] = (dims, column.cpu().numpy(), {"units": _UNITS.get(name, "nats/datum")})
    data["start"] = ("datum", own.start)
    data["approximation_gap"][2]["bound"] = "a lower bound where ok is False"
    coords: dict[str, Any] = {"datum": np.arange(len(x))}
    if others:
        coords["family"] = list(others)
    return xr.Dataset(
        data,
        coords=coords,
        attrs={
            "num_samples": num_samples,
            "method": method or ("refined" if p is None else "exact"),
            "lr": lr,
            "max_steps": max_steps,
            "tolerance": tolerance,
            "particles": particles,
            "seed": seed,
            "khat_threshold": khat_threshold(num_samples),
        },
    )


@dataclass(frozen=True)
class _Star:
    """The best q of a family for each datum.

    Attributes:
        bound: [N], on the draws by which it was chosen.
        start: [N], where each came from.
    """

    posterior: Posterior
    bound: Tensor
    start: np.ndarray

    @property
    def converged(self) -> Tensor:
        assert self.posterior.converged is not None
        return self.posterior.converged


def _own(asked: Question, improve: Any) -> _Star:
    """q* of the fit's own family; q itself is in the running."""
    q, strategy = asked.posterior, asked.fit.strategy
    warm = improve(q)
    if not strategy.layout.width:
        return _best(asked, {"q": warm})
    cold = Posterior(asked.model, strategy.layout.unpack(strategy.start.repeat(len(asked.x), 1)))
    return _best(asked, {"q": Posterior(asked.model, q.phi, warm.converged), "warm": warm, "cold": improve(cold)})


def _with_family(asked: Question, name: FamilyName, options: Mapping[str, Any]) -> Model:
    """The model with another family of q."""
    model = copy.deepcopy(asked.model)
    model._family = None
    return prepare(model, asked.x, name, options)


def _of_family(
    asked: Question, improve: Any, own: _Star, model: Model, name: FamilyName, options: Mapping[str, Any]
) -> _Star:
    """q* of another family under the same model; it starts warm at the moments of the own family's q*."""
    if model.guide_modules:
        return _best(asked, {"warm": improve(_fitted(asked, name, options))})
    layout = model.layout()
    starts = {
        "warm": _at_moments(asked, own.posterior, model, name, options),
        "cold": layout.start.to(asked.x).repeat(len(asked.x), 1),
    }
    return _best(asked, {start: improve(Posterior(model, layout.unpack(rows))) for start, rows in starts.items()})


def _at_moments(
    asked: Question, posterior: Posterior, model: Model, name: FamilyName, options: Mapping[str, Any]
) -> Tensor:
    """Rows [N, width] at which a family has about the means and spreads of q in unconstrained space."""
    target = Target(asked.model, asked.x)
    rows = []
    with torch.no_grad(), forked(asked.x.device):
        for number, block in asked.blocks():
            reseed(block_seed(asked.seed, _STREAM_CHOOSE, number), asked.x.device)
            values = draw(posterior.select(block.positions), asked.x[block.positions], _CHOOSE).raw_values
            u = target.unconstrained(values)[:, block.rows]
            for i, (mean, std) in enumerate(zip(u.mean(0), u.std(0).clamp_min(1e-4), strict=True)):
                sites, at = [], 0
                for site in target.sites:
                    mean_of, std_of = (part[at : at + site.size].reshape(site.mean.shape) for part in (mean, std))
                    sites.append(replace(site, mean=mean_of, std=std_of))
                    at += site.size
                made = make_family(name, sites, dict(options), model, block.x[i : i + 1])
                rows.append(Layout(made.phi).start)
    return torch.stack(rows).to(asked.x)


def _fitted(asked: Question, name: FamilyName, options: Mapping[str, Any]) -> Posterior:
    """q of a family with weights of its own, which are fitted to the data that it is judged on, rows and all."""
    settings, size = asked.fit.settings, len(asked.x)
    likelihood = LIKELIHOODS[settings.treatment]
    data = Data(
        "gaps", asked.x, asked.x[:1], asked.x[:1], likelihood, "binary" if likelihood == "bernoulli" else "real"
    )
    epochs = math.ceil(_FLOW_STEPS / math.ceil(size / 100))
    fitted = train(
        asked.fit, data, "per-datapoint", family=name, family_options=options, train_model=False, lr=_FLOW_LR,
        inference_options={"max_steps": 1},  # of validation data, whose bound is of no use here
        max_epochs=epochs, eval_every=epochs, patience=None, accelerator=asked.x.device.type,
        precision="64-true" if asked.x.dtype == torch.float64 else "32-true",
        seed=block_seed(asked.seed, _STREAM_REFINE) % 2**31, progress=False,
    )  # fmt: skip
    return fitted.posterior(asked.x, torch.arange(size))


def _best(asked: Question, candidates: Mapping[str, Posterior]) -> _Star:
    """For each datum the candidate of the largest bound, on draws that are theirs in common and nobody else's."""
    names, posteriors = list(candidates), list(candidates.values())
    few = asked.at(asked.everyone, _CHOOSE)
    bounds = []
    for posterior in posteriors:
        sampler = Proposal(posterior.model, posterior)
        each = [_weights(few, sampler, block, number, _STREAM_CHOOSE)[1].mean(0) for number, block in few.blocks()]
        bounds.append(torch.cat(each).nan_to_num(nan=-math.inf))
    bound, winner = torch.stack(bounds).max(0)
    phi = {}
    for key, first in posteriors[0].phi.items():
        stacked = torch.stack([posterior.phi[key].expand(first.shape) for posterior in posteriors])
        phi[key] = stacked[winner, asked.everyone]
    converged = torch.stack([p.converged for p in posteriors if p.converged is not None])[winner, asked.everyone]
    chosen = Posterior(posteriors[0].model, phi, converged)
    return _Star(chosen, bound, np.array(names)[winner.cpu().numpy()])


def _weights(asked: Question, sampler: Sampler, block: Block, number: int, stream: int) -> tuple[Tensor, Tensor, bool]:
    """Log weights and bounds [S, B] of all draws for a block, and whether each is log p(x) itself.

    The same stream gives the same random numbers, whatever the sampler.
    """
    parts = []
    with torch.no_grad(), forked(asked.x.device), pyro.validation_enabled(False):
        for some in drawn(asked, sampler, block, number, stream):
            log_w, bound = some.log_weight.double(), some.bound.double()
            if some.exact:
                return log_w.expand(asked.num_samples, -1), bound.expand(asked.num_samples, -1), True
            parts.append((log_w, bound))
    log_w, bound = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_w, bound, False


def _report(
    asked: Question, own: _Star, others: Mapping[str, _Star], p: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Columns [N], and those of other families [F, N], from fresh draws that are common to all."""
    stars = [own, *others.values()]
    tightest = torch.stack([star.bound for star in stars]).argmax(0)
    wide = [Proposal(star.posterior.model, widened(star.posterior, asked.x)) for star in stars]
    narrow = [Proposal(star.posterior.model, star.posterior) for star in stars]
    plain = Proposal(asked.model, asked.posterior)
    found: list[dict[str, Tensor]] = []
    for number, block in asked.blocks():
        q = _weights(asked, plain, block, number, _STREAM_REPORT)[1]
        best = torch.stack([_weights(asked, star, block, number, _STREAM_REPORT)[1] for star in narrow])
        if p is None:
            part, ratio = _log_marginal(asked, wide, tightest, block, number)
        else:
            part = {name: column[block.wanted] for name, column in p.items()}
            ratio = torch.zeros_like(q)
        # the log of a mean of weights moves by a draw's weight over that mean
        gap, gap_se = part["log_marginal"] - best.mean(1), _error(ratio - best)
        if p is not None:
            gap_se = (gap_se.square() + part["log_marginal_se"].square()).sqrt()
        part |= {
            "elbo": q.mean(0),
            "elbo_se": _error(q),
            "elbo_star": best[0].mean(0),
            "elbo_star_se": _error(best[0]),
            "approximation_gap": gap[0],
            "approximation_gap_se": gap_se[0],
            "amortization_gap": (best[0] - q).mean(0),
            "amortization_gap_se": _error(best[0] - q),
        }
        if others:
            part |= {
                "family_elbo_star": best[1:].mean(1),
                "family_elbo_star_se": _error(best[1:]),
                "family_gap": gap[1:],
                "family_gap_se": gap_se[1:],
                "family_gain": (best[1:] - best[0]).mean(1),
                "family_gain_se": _error(best[1:] - best[0]),
            }
        found.append(part)
    columns = {name: torch.cat([part[name] for part in found], -1) for name in found[0]}
    columns["converged"] = own.converged
    if others:
        columns["family_converged"] = torch.stack([star.converged for star in others.values()])
    return columns


def _log_marginal(
    asked: Question, samplers: Sequence[Sampler], tightest: Tensor, block: Block, number: int
) -> tuple[dict[str, Tensor], Tensor]:
    """log p̂ of a block's data, each from the sampler that is named for it, and w/mean w of every draw [S, B]."""
    owner = tightest[block.wanted]
    log_w = torch.empty(asked.num_samples, len(owner), dtype=torch.float64, device=owner.device)
    for i, sampler in enumerate(samplers):
        mine = owner == i
        if bool(mine.any()):
            part = replace(block, rows=block.rows[mine])
            log_w[:, mine], _, exact = _weights(asked, sampler, part, number, _STREAM_REPORT)
            if exact:
                return {name: certain(log_w[0])[name] for name in _OF_P}, torch.zeros_like(log_w)
    weights = Weights.empty(asked.num_samples, log_w[0])
    weights.add(log_w, log_w)
    found = summary(weights, smooth=False)
    return {name: found[name] for name in _OF_P}, (log_w - found["log_marginal"]).exp()


def _error(draws: Tensor) -> Tensor:
    """The standard error of a mean over draws [..., S, B]."""
    return draws.std(-2) / math.sqrt(draws.shape[-2])


def _exact(asked: Question) -> dict[str, Tensor] | None:
    """log p(x) without draws, where there is a way."""
    try:
        source = METHODS["exact"].prepare(asked)
    except PpvaeError:
        return None
    found = answer(asked, source)
    return {name: found[name] for name in _OF_P}


def _checked(families: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[FamilyName, dict[str, Any]]:
    """Families with their options, refused where unknown."""
    if isinstance(families, str) or not isinstance(families, Sequence | Mapping):
        raise PpvaeError(f"families must be a list of names, got {require.show(families)}")
    out: dict[FamilyName, dict[str, Any]] = {}
    for name in families:
        known = cast(FamilyName, require.one_of("family", name, FAMILIES))
        options = require.mapping(f"options of {known}", families[name] if isinstance(families, Mapping) else None)
        check_options(known, FAMILY_CLASSES[known], options, skip=("self", "sites", "model", "x"))
        out[known] = options
    return out
