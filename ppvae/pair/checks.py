"""A check that finds errors of a pair before training hides them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn.module import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.entry import entry
from ppvae.errors import CheckError
from ppvae.pair.coverage import uncovered
from ppvae.pair.densities import Densities, log_densities
from ppvae.pair.faults import explained, layers_in_training_mode
from ppvae.pair.guide_family import set_family
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sharing import copied
from ppvae.pair.sites import is_subsample, sample_sites
from ppvae.randomness import seeded


@entry
def check(model: Model, x: Tensor) -> None:
    """Raise `CheckError` if the pair is not sound; the error names the site, plate, module or shape at fault.

    The pair is traced with S particles and B datapoints, two numbers that differ from each other and from every
    size of an event. Then each datum is scored alone, at the same latents, and must get the same densities. That
    finds a missing `to_event`, a φ that broadcasts, batch normalisation and dropout in training mode, a plate that
    subsamples, a nested plate; also a mask on a latent, a prior that is no density over its support, and an angle whose
    guide is not periodic, as bounds would not be bounds. It does not find a branch on the data, or broadcasting inside
    an event.

    Args:
        model: the pair; a copy is checked, in the mode that it is in.
        x: a few datapoints [B, *event], as the model will see them.
    """
    if not isinstance(model, Model):
        raise CheckError(f"model must be a ppvae.Model, got {type(model).__name__}")
    if not isinstance(x, Tensor) or x.dim() < 1 or not len(x):
        raise CheckError("x must be a tensor [B, *event] with B ≥ 1")
    if not bool(x.isfinite().all()):
        raise CheckError("x holds NaN or infinite values: drop or impute them first")
    name = type(model).__name__
    model, _ = copied(model)
    _refuse_pyro_modules(model)
    with torch.no_grad(), seeded(0, device=x.device):
        with explained(name), pyro.validation_enabled(True), _Plates(name):
            set_family(model, x)
            sizes = _event_sizes(model, x)
        batch = _distinct(sizes)
        particles = _distinct({*sizes, batch})
        x = x[torch.arange(batch, device=x.device) % len(x)]
        posterior = _any_posterior(model, x)
        with explained(name), pyro.validation_enabled(True):
            with _Plates(name):
                _run_once(model, posterior, x)
            first = log_densities(model, posterior, x, particles)
            given = first.values or None  # a guide without sites has no values to hold fixed
            twice = [log_densities(model, posterior, x, particles, values=given) for _ in range(2)]
        _same(model, _columns(twice[0], slice(None)), _columns(twice[1], slice(None)), _TWICE)
        with explained(name):
            fault = uncovered(model, posterior, x)
        if fault is not None and not fault.trainable:
            raise CheckError(f"{name}: {fault}")
        for gradients in (False, True):  # as evaluation and training run the programs
            with explained(name), pyro.validation_enabled(False), torch.set_grad_enabled(gradients):
                plain = log_densities(model, posterior, x, particles, values=given)
            _same(model, _columns(twice[0], slice(None)), _columns(plain, slice(None)), _MODES[gradients])
        for i in range(batch):
            index = torch.tensor([i], device=x.device)
            values = None if given is None else {site: value[:, index] for site, value in given.items()}
            with explained(name, model):
                alone = log_densities(model, posterior.select(index), x[index], particles, values=values)
            _same(model, _columns(twice[0], index), _columns(alone, slice(None)), _ALONE)


class _Plates(Messenger):
    """Refuse a site, also an observed one, outside the one plate "data" at dim -1, and pyro.param."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def _pyro_sample(self, msg: Any) -> None:
        name, frames = msg["name"], msg["cond_indep_stack"]
        if is_subsample(msg):
            if msg["fn"].subsample_size not in (None, msg["fn"].size):
                raise self.subsampled(name)
            return
        if msg["infer"].get("_deterministic"):
            return
        if not frames:
            raise CheckError(f'{self.model}: site {name!r} is outside pyro.plate("data", len(x))')
        if len(frames) > 1:
            plates = ", ".join(repr(frame.name) for frame in frames)
            raise CheckError(
                f"{self.model}: site {name!r} is in nested plates {plates}: keep the plate 'data' alone and make the "
                "others dimensions of the event with .to_event()"
            )
        frame = frames[0]
        if frame.full_size not in (None, frame.size):
            raise self.subsampled(frame.name)
        if frame.name != "data" or frame.dim != -1:
            raise CheckError(
                f"{self.model}: site {name!r} is in plate {frame.name!r} at dim {frame.dim}: "
                'it must be "data" at dim -1'
            )
        if len(msg["fn"].batch_shape) != 1:
            raise CheckError(
                f"{self.model}: site {name!r} has batch shape {tuple(msg['fn'].batch_shape)}, not [B]: give its own "
                "dimensions to the event with .to_event()"
            )
        shape = msg["fn"].batch_shape + msg["fn"].event_shape
        if not msg["is_observed"] and isinstance(msg["value"], Tensor) and msg["value"].shape != shape:
            raise CheckError(
                f"{self.model}: site {name!r} is {list(msg['value'].shape)} in the guide and {list(shape)} in the "
                "model: make their event shapes agree (is .to_event() missing?)"
            )

    def subsampled(self, plate: str) -> CheckError:
        return CheckError(
            f"{self.model}: plate {plate!r} subsamples by itself: the library makes the batches, so write "
            'pyro.plate("data", len(x))'
        )

    def _pyro_param(self, msg: Any) -> None:
        raise CheckError(
            f"{self.model}: pyro.param({msg['name']!r}) would be lost when the model is saved: make it an nn.Parameter"
        )


def _refuse_pyro_modules(model: Model) -> None:
    for name, module in model.named_modules():
        if isinstance(module, PyroModule):
            raise CheckError(
                f"{type(model).__name__}: module {name or 'itself'!r} is a PyroModule, whose PyroSample and PyroParam "
                "would be lost: use a plain torch.nn.Module"
            )


def _any_posterior(model: Model, x: Tensor) -> Posterior:
    """Each datum gets a different row of φ, so that a φ that broadcasts over the batch does not look constant."""
    layout = model.layout()
    rows = layout.start.to(x).repeat(len(x), 1)
    return Posterior(model, layout.unpack(rows + 0.1 * torch.randn_like(rows)))


def _run_once(model: Model, posterior: Posterior, x: Tensor) -> list[poutine.Trace]:
    """The traces of guide and model, run by plain Pyro."""
    try:
        guide = poutine.trace(posterior).get_trace(x)
    except KeyError as error:
        raise CheckError(
            f"{type(model).__name__}: the guide reads phi[{error}], and self.phi declares "
            f"{', '.join(model.phi) or 'none'}"
        ) from error
    return [guide, poutine.trace(poutine.replay(model, trace=guide)).get_trace(x)]


def _event_sizes(model: Model, x: Tensor) -> set[int]:
    """Every size of an event, a local parameter or a datum; B and S must differ from all of them."""
    model.layout()  # refuses an entry of phi that is not a Local
    sizes = set(x.shape[1:])
    for local in model.phi.values():
        sizes.update(local.start.shape)
    for trace in _run_once(model, _any_posterior(model, x), x):
        for site in sample_sites(trace).values():
            sizes.update((*site["fn"].event_shape, *site["value"].shape[1:]))
    return sizes


def _distinct(sizes: set[int]) -> int:
    return next(size for size in count(5) if size not in sizes)


def _columns(densities: Densities, index: Any) -> dict[str, Tensor]:
    out = {f"site {name!r}": term[:, index] for name, term in densities.site_log_prob.items()}
    out.update({f"guide site {name!r}": term[:, index] for name, term in densities.site_log_q.items()})
    return out


_MODES = "scored with and without validation", "scored with and without gradients"
_TWICE, _ALONE = "scored twice at the same latents", "scored alone and in a batch"
_WHY = {
    _TWICE: "it draws random numbers outside pyro.sample",
    _ALONE: "something in the model or guide mixes datapoints, or broadcasts where it should not",
    **dict.fromkeys(_MODES, "a distribution of the model or guide computes something else there"),
}


def _same(model: Model, one: dict[str, Tensor], other: dict[str, Tensor], when: str) -> None:
    for site, term in one.items():
        rtol, atol = (1e-9, 1e-8) if term.dtype == torch.float64 else (1e-4, 1e-3)
        if not torch.allclose(term, other[site], rtol=rtol, atol=atol, equal_nan=True):
            gap = (term - other[site]).abs().max().item()
            raise CheckError(
                f"{type(model).__name__}: {site} has other densities when {when} (largest difference {gap:.3g}): "
                f"{layers_in_training_mode(model) or _WHY[when]}"
            )
