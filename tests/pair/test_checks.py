"""`ppvae.check`: every fault it promises to find, planted one by one and named, and sound pairs that pass.

Each fault is one change of `Sound`. The data have more rows than columns, as many, or fewer, and 3, 5, 6 or 7 columns,
since a missing `to_event` hides where a size of the event equals the number of data or of particles.
"""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Untouched
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.nn.functional import dropout

import ppvae
from ppvae.errors import CheckError
from ppvae.pair.guide_family import set_family
from ppvae.pair.local import Phi

LATENTS = 2


def data(columns: int = 3, rows: int = 7) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


class Sound(ppvae.Model):
    """A latent of 2 numbers, an observation of as many as x has."""

    def __init__(self, columns: int = 3, latents: int = LATENTS) -> None:
        super().__init__()
        self.net = nn.Linear(latents, columns)
        self.latents = latents
        self.phi = {
            "loc": ppvae.Local(torch.zeros(latents)),
            "scale": ppvae.Local(torch.ones(latents), dist.constraints.softplus_positive),
        }

    def prior(self, x: Tensor) -> Any:
        return dist.Normal(x.new_zeros(self.latents), 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z), 1.0).to_event(1)

    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"], phi["scale"]).to_event(1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.family(phi))


def complaint(model: ppvae.Model, x: Tensor) -> str:
    """The message of the CheckError that `check` must raise: one line."""
    with pytest.raises(CheckError) as caught:
        ppvae.check(model, x)
    message = str(caught.value)
    assert "\n" not in message
    assert 20 < len(message) < 400
    return message


# A missing to_event


class XWithoutToEvent(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z), 1.0)


class ZWithoutToEvent(Sound):
    def prior(self, x: Tensor) -> Any:
        return dist.Normal(x.new_zeros(self.latents), 1.0)


class QWithoutToEvent(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"], phi["scale"])


class ZAndQWithoutToEvent(ZWithoutToEvent, QWithoutToEvent):
    pass


@pytest.mark.parametrize("rows", [1, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("columns", [1, 3, 5, 6, 7])
def test_to_event_missing_at_x(columns: int, rows: int) -> None:
    """Found whether or not the columns are as many as the data: the message names the site x."""
    assert re.search(r"site '?x\b.*to_event", complaint(XWithoutToEvent(columns), data(columns, rows)))


@pytest.mark.parametrize("rows", [1, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("latents", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("fault", [ZWithoutToEvent, QWithoutToEvent, ZAndQWithoutToEvent])
def test_to_event_missing_at_z(fault: type[Sound], latents: int, rows: int) -> None:
    """Of the prior, the family or both: the message names the site z."""
    assert re.search(r"site '?z\b.*to_event", complaint(fault(3, latents), data(3, rows)))


# Faults of all kinds, each with words of the message that name the culprit


class ParamInModel(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z) + pyro.param("shift", torch.zeros(3)), 1.0).to_event(1)


class ParamInGuide(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"], pyro.param("width", torch.ones(2))).to_event(1)


PYRO_LINEAR: Any = PyroModule[nn.Linear]


class SampledWeight(Sound):
    def __init__(self) -> None:
        super().__init__()
        net: Any = PYRO_LINEAR(LATENTS, 3)
        net.weight = PyroSample(dist.Normal(torch.zeros(3, LATENTS), 1.0).to_event(2))
        self.net = net


class PyroWeight(Sound):
    def __init__(self) -> None:
        super().__init__()
        linear: Any = PYRO_LINEAR(LATENTS, 3)
        linear.weight = PyroParam(torch.zeros(3, LATENTS))
        self.net = nn.Sequential(linear)


class MeanOverData(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"].mean(0), phi["scale"]).to_event(1)


class FirstRowForAll(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"][:1], phi["scale"][:1]).to_event(1)


class NoBatchDimension(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"][0], phi["scale"][0]).to_event(1)


class OneScaleForAll(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"], phi["scale"].mean()).to_event(1)


class WrongSize(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", 1000):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)


class OwnSubsample(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x[index])


class GivenSubsample(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)


class NestedPlate(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior(x))
            with pyro.plate("columns", 3, dim=-2):
                pyro.sample("x", dist.Normal(self.net(z).mT, 1.0), obs=x.mT)


class OtherNameInModel(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("items", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)


class OtherNameInGuide(Sound):
    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("items", len(x)):
            pyro.sample("z", self.family(phi))


class OtherDimension(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, self.latents), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x.unsqueeze(1))


class GlobalLatent(Sound):
    def model(self, x: Tensor) -> None:
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", dist.Normal(self.net(z), noise).to_event(1), obs=x)


class ObservedOutside(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
        pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(2), obs=x)


class GuideWithoutPlate(Sound):
    def guide(self, x: Tensor, phi: Phi) -> None:
        pyro.sample("z", self.family(phi))


class TwoPlates(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
        with pyro.plate("observations", len(x)):
            pyro.sample("x", self.likelihood(z), obs=x)


class GuideHasMore(Sound):
    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.family(phi))
            pyro.sample("extra", dist.Normal(x.new_zeros(()), 1.0))


class GuideHasLess(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.net(z) + w.unsqueeze(-1), 1.0).to_event(1), obs=x)


class GuideObserves(Sound):
    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.family(phi))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)


class UndeclaredEntry(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"], phi["width"]).to_event(1)


class UnmarkedDiscrete(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(4)))
            pyro.sample("x", dist.Normal(self.net(z) + k.unsqueeze(-1), 1.0).to_event(1), obs=x)


class MarkedContinuous(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.net(z) + w.unsqueeze(-1), 1.0).to_event(1), obs=x)


class NothingObserved(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior(x))


class Scaled(Sound):
    def model(self, x: Tensor) -> None:
        with poutine.scale(scale=10.0):
            super().model(x)


class TwoSitesOfOneName(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)
            pyro.sample("x", self.likelihood(z), obs=x)


class RandomModel(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z + torch.randn_like(z)), 1.0).to_event(1)


class RandomGuide(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"] + torch.randn_like(phi["loc"]), 1.0).to_event(1)


class FunctionalDropout(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(dropout(z, 0.5)), 1.0).to_event(1)


class SoftmaxOverData(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z).softmax(-2), 1.0).to_event(1)


class CentredData(Sound):
    def model(self, x: Tensor) -> None:
        super().model(x - x.mean(0))


class CentredPhi(Sound):
    def family(self, phi: Phi) -> Any:
        return dist.Normal(phi["loc"] - phi["loc"].mean(0), phi["scale"]).to_event(1)


class FlippedData(Sound):
    def model(self, x: Tensor) -> None:
        super().model(x.flip(0))


class WrongEventSize(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z)[..., :2], 1.0).to_event(1)


class NoModel(ppvae.Model):
    pass


class GenerativeOnly(Sound):
    """The latents alone, for faults of models without a guide."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {}

    guide = ppvae.Model.guide


class HalfAPair(GenerativeOnly):
    def __init__(self) -> None:
        super().__init__()
        self.phi = {"loc": ppvae.Local(torch.zeros(2))}


class GuideWithoutPhi(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.phi = {}


class UnmarkedDiscreteAlone(GenerativeOnly):
    model = UnmarkedDiscrete.model


class CountLatent(GenerativeOnly):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            count = pyro.sample("count", dist.Poisson(x.new_ones(())))
            pyro.sample("x", dist.Normal(count.unsqueeze(-1).expand(*count.shape, 3), 1.0).to_event(1), obs=x)


class GlobalLatentAlone(GenerativeOnly):
    model = GlobalLatent.model


FAULTS: list[tuple[Callable[[], ppvae.Model], list[str]]] = [
    (ParamInModel, ["pyro.param('shift')", "nn.Parameter"]),
    (ParamInGuide, ["pyro.param('width')", "nn.Parameter"]),
    (SampledWeight, ["module 'net'", "PyroModule"]),
    (PyroWeight, ["module 'net.0'", "PyroModule"]),
    (MeanOverData, ["site 'z'", "mixes datapoints, or broadcasts"]),
    (FirstRowForAll, ["site 'z'", "mixes datapoints, or broadcasts"]),
    (NoBatchDimension, ["site 'z'", "mixes datapoints, or broadcasts"]),
    (OneScaleForAll, ["site 'z'", "mixes datapoints, or broadcasts"]),
    (WrongSize, ["plate 'data'", "len(x)"]),
    (OwnSubsample, ["plate 'data'", "subsamples by itself"]),
    (GivenSubsample, ["plate 'data'", "subsamples by itself"]),
    (NestedPlate, ["site 'x'", "nested plates", "'columns'"]),
    (OtherNameInModel, ["site 'z'", "plate 'items'"]),
    (OtherNameInGuide, ["site 'z'", "plate 'items'"]),
    (OtherDimension, ["site 'z'", "plate 'data' at dim -2"]),
    (GlobalLatent, ["site 'noise'", "outside"]),
    (GlobalLatentAlone, ["site 'noise'", "outside"]),
    (ObservedOutside, ["site 'x'", "outside"]),
    (GuideWithoutPlate, ["site 'z'", "outside"]),
    (TwoPlates, ["site 'x'", "plate 'observations'"]),
    (GuideHasMore, ["site 'extra'", "does not exist in the model"]),
    (GuideHasLess, ["latent 'w'", "no site in the guide"]),
    (GuideObserves, ["'x'", "guide observes"]),
    (UndeclaredEntry, ["phi['width']", "loc, scale"]),
    (GuideWithoutPhi, ["phi['loc']", "none"]),
    (UnmarkedDiscrete, ["latent 'k'", "mark it"]),
    (UnmarkedDiscreteAlone, ["latent 'k'", "discrete", "mark it"]),
    (MarkedContinuous, ["site 'w'", "no finite support"]),
    (CountLatent, ["latent 'count'", "Poisson", "give a guide"]),
    (HalfAPair, ["declares phi and no guide"]),
    (NothingObserved, ["observes nothing"]),
    (Scaled, ["site 'z'", "scaled by 10"]),
    (TwoSitesOfOneName, ["'x'"]),
    (RandomModel, ["site 'x'", "scored twice", "random"]),
    (RandomGuide, ["guide site 'z'", "scored twice", "random"]),
    (FunctionalDropout, ["site 'x'", "scored twice", "random"]),
    (SoftmaxOverData, ["site 'x'", "mixes datapoints"]),
    (CentredData, ["site 'x'", "mixes datapoints"]),
    (CentredPhi, ["guide site 'z'", "mixes datapoints"]),
    (FlippedData, ["site 'x'", "mixes datapoints"]),
    (WrongEventSize, ["site 'x'"]),
    (NoModel, ["NoModel", "no model(self, x)"]),
]


#: with one datum there is nothing to mix
NEED_TWO = (CentredData, FlippedData)


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_the_fault_is_found_and_named(fault: Callable[[], ppvae.Model], words: list[str], rows: int) -> None:
    """In one line with the class and the culprit, and whatever the number of data."""
    if fault in NEED_TWO:
        rows = max(rows, 3)
    message = complaint(fault(), data(rows=rows)).replace('"', "'")
    assert [word for word in [fault.__name__, *words] if word not in message] == []


@pytest.mark.parametrize("fault", [fault for fault, _ in FAULTS])
def test_fit_refuses_what_check_refuses(fault: Callable[[], ppvae.Model]) -> None:
    """With the same error in one line, before it trains or builds anything."""
    x = data()
    with pytest.raises(CheckError) as caught:
        ppvae.fit(fault(), ppvae.Data("a few", x, x, x, "gaussian", "real"), progress=False)
    assert "\n" not in str(caught.value)


# Layers


class Layered(Sound):
    """A layer after the decoder, which takes data as one list [S · B, 3]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(LATENTS, 3), layer)

    def likelihood(self, z: Tensor) -> Any:
        mean = self.layer(z.reshape(-1, LATENTS)).reshape(*z.shape[:-1], 3)
        return dist.Normal(mean, 1.0).to_event(1)


class LayeredGuide(Sound):
    """A layer that the guide owns."""

    guide_modules = ("layer",)

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(LATENTS, 3), layer, nn.Linear(3, LATENTS))

    def family(self, phi: Phi) -> Any:
        return dist.Normal(self.layer(phi["loc"]), phi["scale"]).to_event(1)


LAYERS = [lambda: nn.BatchNorm1d(3), lambda: nn.Dropout(0.5), lambda: nn.AlphaDropout(0.5)]


@pytest.mark.parametrize("make", [Layered, LayeredGuide])
@pytest.mark.parametrize("layer", LAYERS, ids=["BatchNorm1d", "Dropout", "AlphaDropout"])
def test_layers_that_see_the_batch_or_draw(layer: Callable[[], nn.Module], make: Callable[..., Sound]) -> None:
    """In training mode they are refused by their path and type; in evaluation mode they are sound."""
    model = make(layer())
    message = complaint(model.train(), data())
    assert f"module layer.1 ({type(layer()).__name__}) is in training mode" in message
    ppvae.check(model.eval(), data())


def test_statistics_of_batch_normalisation_stay() -> None:
    """A copy is checked, so the running mean of the caller's layer does not move."""
    norm = nn.BatchNorm1d(3)
    complaint(Layered(norm).train(), data())
    assert norm.running_mean is not None
    assert not norm.running_mean.any()


# What is wrong before anything runs


@pytest.mark.parametrize("name", ["model", "guide", "encoder", "forward", "layout"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: nn.Parameter(torch.zeros(2))])
def test_a_submodule_that_hides_a_method_is_refused_at_assignment(name: str, make: Callable[[], Any]) -> None:
    """The message names the attribute and another name for it."""
    with pytest.raises(ppvae.PpvaeError, match=rf"Sound\.{name} is a method .* {name}_net"):
        setattr(Sound(), name, make())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_in_x_is_refused(bad: float) -> None:
    """Missing values are not supported, and infinite ones are a mistake."""
    x = data()
    x[2, 1] = bad
    assert "x holds NaN or infinite values" in complaint(Sound(), x)


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.zeros(()), [[1.0, 2.0]]], ids=["empty", "scalar", "list"])
def test_x_must_be_data(x: Any) -> None:
    """A tensor with at least one datum."""
    assert "x must be a tensor [B, *event]" in complaint(Sound(), x)


def test_the_model_must_be_a_model() -> None:
    """Any other module is refused by its type."""
    module: Any = nn.Linear(2, 2)
    with pytest.raises(CheckError, match=r"ppvae\.Model, got Linear"):
        ppvae.check(module, data())


# Sound pairs


class Family(GenerativeOnly):
    """A generative model alone, with a latent of any distribution of event dimension 0 or 1."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.latent_prior = prior
        self.net = nn.Linear(prior.event_shape.numel() if prior.event_shape else 1, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.latent_prior)
            z = z if self.latent_prior.event_shape else z.unsqueeze(-1)
            pyro.sample("x", self.likelihood(z), obs=x)


class TwoLatents(GenerativeOnly):
    """One above the other, the lower of scalars."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Gamma(2.0, 1.0))
            z = pyro.sample("z", dist.Normal(top.unsqueeze(-1).expand(*top.shape, 2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)


class Masked(Sound):
    """Some observations left out; the mask is the datum's own."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).mask(x > 0).to_event(1), obs=x)


class MaskedData(Sound):
    """Whole data left out by the handler."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            visible: Any = x[:, 0] > 0
            with poutine.mask(mask=visible):
                pyro.sample("x", self.likelihood(z), obs=x)


class TwoObservations(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            mean = self.net(z)
            pyro.sample("left", dist.Normal(mean[..., :2], 1.0).to_event(1), obs=x[:, :2])
            pyro.sample("right", dist.Laplace(mean[..., 2], 1.0), obs=x[:, 2])


class Deterministic(Sound):
    """Inside the plate and, for a global quantity, outside."""

    def model(self, x: Tensor) -> None:
        pyro.deterministic("norm", self.net.weight.norm())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            mean = pyro.deterministic("mean", self.net(z), event_dim=1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class Factor(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.factor("energy", -z.square().sum(-1))
            pyro.sample("x", self.likelihood(z), obs=x)


class SummedOut(Sound):
    """A discrete latent that the model has alone."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(4)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.net(z) + k.unsqueeze(-1), 1.0).to_event(1), obs=x)


class SummedOutAlone(GenerativeOnly):
    model = SummedOut.model


class TwoSummedOut(GenerativeOnly):
    """Two discrete latents and nothing else, one conditioned on the other."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(4)), infer={"enumerate": "parallel"})
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.1 * k), infer={"enumerate": "parallel"})
            mean = (k + b).unsqueeze(-1) * x.new_ones(3)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class NoLatent(GenerativeOnly):
    """Nothing to infer: a density of x alone."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net.bias, 1.0).to_event(1), obs=x)


class ScalarData(GenerativeOnly):
    """x [B] without event dimensions."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Discrete(Sound):
    """A discrete latent with a site in the guide."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {"logits": ppvae.Local(torch.zeros(4))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(4)), infer={"enumerate": "parallel"})
            mean = k.unsqueeze(-1) * x.new_ones(3)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})


class UnsizedPlate(Sound):
    """The plate of no stated size takes that of its sites."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)


PRIORS = {
    "normal": lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
    "scalar": lambda: dist.Normal(0.0, 1.0),
    "cauchy": lambda: dist.Cauchy(torch.zeros(2), 1.0).to_event(1),
    "gamma": lambda: dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1),
    "scalar-gamma": lambda: dist.Gamma(2.0, 1.0),
    "beta": lambda: dist.Beta(torch.full((2,), 2.0), 3.0).to_event(1),
    "interval": lambda: dist.Uniform(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 5.0])).to_event(1),
    "simplex": lambda: dist.Dirichlet(torch.full((5,), 2.0)),
    "correlated": lambda: dist.MultivariateNormal(torch.zeros(5), torch.eye(5)),
}
SOUND: dict[str, Callable[[], ppvae.Model]] = {
    **{f"family-{name}": lambda make=make: Family(make()) for name, make in PRIORS.items()},
    **{
        cls.__name__: cls
        for cls in (
            Sound, GenerativeOnly, TwoLatents, Masked, MaskedData, TwoObservations, Deterministic, Factor, SummedOut,
            SummedOutAlone, TwoSummedOut, NoLatent, Discrete, UnsizedPlate,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("name", SOUND)
def test_sound_pairs_pass(name: str, rows: int) -> None:
    """Whatever the number of data."""
    ppvae.check(SOUND[name](), data(rows=rows))


@pytest.mark.parametrize("rows", [1, 5, 7])
@pytest.mark.parametrize("latents", [1, 5, 6, 7])
@pytest.mark.parametrize("columns", [1, 5, 6, 7])
def test_sound_sizes_pass(columns: int, latents: int, rows: int) -> None:
    """Events of any size, that of the batch included."""
    ppvae.check(Sound(columns, latents), data(columns, rows))


def test_scalar_data_pass() -> None:
    """x [B] has no event dimension, and its likelihood needs no to_event."""
    ppvae.check(ScalarData(), data(1)[:, 0])


def test_double_precision_passes() -> None:
    """A model of float64 on data of float64, from its declaration on."""
    ppvae.check(Sound().double(), data().double())


def test_a_prepared_model_passes() -> None:
    """The default family that `prepare` built is the model's own from then on."""
    model = set_family(GenerativeOnly(), data())
    ppvae.check(model, data())
    assert set_family(model, data()) is model


ZOO: list[tuple[str, dict[str, Any]]] = [
    *(
        ("gmm", {"num_components": k, "covariance": covariance, "assignment": assignment})
        for k in (1, 5)
        for covariance in ("full", "diagonal")
        for assignment in ("categorical", "summed")
    ),
    *(("ppca", {"latent_dim": dim, "noise": noise}) for dim in (1, 6) for noise in ("isotropic", "diagonal")),
    *(
        ("dlgm", {"latent_dims": [5, 6, 1][:depth], "hidden": 7, "likelihood": likelihood, "family": family})
        for depth in (1, 2, 3)
        for likelihood in ("bernoulli", "gaussian")
        for family in ("chain", "factorised")
    ),
    *(
        ("vae", {"latent_dim": dim, "hidden": [5], "likelihood": kind})
        for dim in (1, 6)
        for kind in ("bernoulli", "gaussian")
    ),
]


@pytest.mark.parametrize(("name", "options"), ZOO, ids=str)
def test_the_zoo_passes(name: str, options: dict[str, Any]) -> None:
    """Every variant of every model, fresh and in double precision."""
    x = data(6, 5)
    x = (
        (x > 0).float()
        if options.get("likelihood", "bernoulli" if name in ("dlgm", "vae") else "") == "bernoulli"
        else x
    )
    model = ppvae.create(name, x_dim=6, **options)
    ppvae.check(model, x)


def test_the_zoo_is_all_here() -> None:
    """A newly registered model has its variants in the table above."""
    assert {name for name, _ in ZOO} == set(ppvae.list_models())


# No trace


@pytest.mark.parametrize("make", [Sound, GenerativeOnly, *(fault for fault, _ in FAULTS)])
def test_check_leaves_no_trace(make: Callable[[], ppvae.Model], untouched: Untouched) -> None:
    """Neither in the model, nor in random states, Pyro's settings and its store, whether or not it finds a fault."""
    model = make()
    phi, options = dict(model.phi), dict(model.options)
    with untouched(model):
        try:
            ppvae.check(model, data())
        except CheckError:
            assert make not in (Sound, GenerativeOnly)
        else:
            assert make in (Sound, GenerativeOnly)
    assert (dict(model.phi), model.options) == (phi, options)
    ppvae.check(Sound(), data())


# latents that are masked, densities that are not, and the modes in which programs run


def first_is_positive(x: Tensor) -> Any:
    return x[:, 0] > 0


class MaskedLatent(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=first_is_positive(x)):
                z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(z), obs=x)


class MaskedGuide(Sound):
    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=first_is_positive(x)):
            pyro.sample("z", self.family(phi))


class MaskedPrior(Sound):
    def prior(self, x: Tensor) -> Any:
        return dist.Normal(x.new_zeros(self.latents), 1.0).mask(x.new_tensor([True, False])).to_event(1)


@pytest.mark.parametrize("kind", [MaskedLatent, MaskedGuide, MaskedPrior])
def test_a_mask_on_a_latent_is_refused(kind: type[Sound]) -> None:
    assert "'z' is masked" in complaint(kind(), data())


class MaskedObservation(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            with poutine.mask(mask=first_is_positive(x)):
                pyro.sample("x", self.likelihood(z), obs=x)


def test_a_mask_on_an_observation_passes() -> None:
    ppvae.check(MaskedObservation(), data())


class TwiceAsLikely(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.7


class NoDensity(Sound):
    def prior(self, x: Tensor) -> Any:
        return TwiceAsLikely(x.new_zeros(self.latents), 1.0).to_event(1)


def test_a_prior_that_is_no_density_is_refused() -> None:
    """exp 0.7 = 2.01."""
    assert "integrates to 2.01, not 1" in complaint(NoDensity(), data())


class NoisyOr(ppvae.Model):
    """k [2] binary, drawn by the guide; x [3] ~ Bernoulli of fixed logits where a fault is on, which have no dim S."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.phi = {"logits": ppvae.Local(torch.zeros(2))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(x.new_full((2,), 0.3)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.weight).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=phi["logits"]).to_event(1))


def test_logits_that_several_values_share_are_scored_in_every_mode() -> None:
    """Without gradients and validation a faster method scores a Bernoulli, which once wrote into its logits."""
    x = (data() > 0).float()
    model = NoisyOr()
    ppvae.check(model, x)
    posterior = ppvae.Posterior(model, {"logits": torch.zeros(len(x), 2)})
    truth = dist.Bernoulli(logits=model.weight).to_event(1).log_prob(x)
    for gradients in (False, True):
        with pyro.validation_enabled(False), torch.set_grad_enabled(gradients):
            densities = ppvae.log_densities(model, posterior, x, 4)
            torch.testing.assert_close(densities.log_likelihood, truth.expand(4, -1))


class InPlace(dist.Normal):
    """A density that works with validation alone."""

    def log_prob(self, value: Tensor) -> Tensor:
        if not self._validate_args:
            raise RuntimeError("output with shape [3] does not match")
        return super().log_prob(value)


class Unvalidated(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return InPlace(self.net(z), 1.0).to_event(1)


class OtherWithGradients(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.net(z), 2.0 if torch.is_grad_enabled() else 1.0).to_event(1)


def test_every_mode_is_checked() -> None:
    assert "does not match" in complaint(Unvalidated(), data())
    assert "scored with and without gradients" in complaint(OtherWithGradients(), data())
