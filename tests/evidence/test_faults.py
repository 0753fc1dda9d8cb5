"""Numbers that once passed and were wrong: each pair has an exact log p(x), and what passes must be near it."""

import math
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.distributions import constraints
from torch import Tensor, nn

import ppvae
from ppvae import Local, PpvaeError
from ppvae.catalogue import FAMILIES
from ppvae.pair.local import Phi

#: 20 to 40 data × methods, each at most so many standard errors from the truth: 200 comparisons, below 1.3% in all;
#: 0.01 nats more for the bias −se²/2 of a log mean, and for values without an error
SIGMAS, BIAS = 4.0, 0.01
N = 20
Guide = Literal["point", "uniform", "log-normal", "one-site"]


def right(result: xr.Dataset, truth: Tensor, *, share: float) -> None:
    """What passes lies near the truth, and at least that share passes."""
    ok = result.ok.values
    assert ok.mean() >= share
    off = np.abs(result.log_marginal.values - truth.numpy())
    assert (off[ok] <= SIGMAS * result.log_marginal_se.values[ok] + BIAS).all()


def fit_of(model: ppvae.Model, x: Tensor, inference: str = "amortized", **settings: Any) -> ppvae.Fit:
    data = ppvae.Data("small", x, x[:3], x[:3], "gaussian", "real")
    return ppvae.fit(model, data, inference, **{"epochs": 3, "train_model": False, **settings})


class Linear(ppvae.Model):
    """z [3] ~ Normal(0, 1), x ~ Normal(z, 1), so that x ~ Normal(0, √2); a guide that lacks a density somewhere."""

    def __init__(self, kind: Guide) -> None:
        super().__init__()
        self.kind: Guide = kind
        self.shift = nn.Parameter(torch.zeros(3))
        self.phi = {"loc": Local(torch.zeros(3))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.kind == "one-site":
                first = pyro.sample("first", dist.Normal(x.new_zeros(()), 1.0))
                rest = pyro.sample("rest", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                z = torch.cat([first.unsqueeze(-1), rest], -1)
            else:
                z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        loc = phi["loc"]
        with pyro.plate("data", len(x)):
            if self.kind == "point":
                pyro.sample("z", dist.Delta(loc, event_dim=1))
            elif self.kind == "uniform":
                pyro.sample("z", dist.Uniform(loc - 0.4, loc + 0.4).to_event(1))
            elif self.kind == "log-normal":
                pyro.sample("z", dist.LogNormal(loc, 1.0).to_event(1))
            else:
                pyro.sample("first", dist.Delta(loc[..., 0]))
                pyro.sample("rest", dist.Normal(loc[..., 1:], 1.0).to_event(1))


def linear_data() -> tuple[Tensor, Tensor]:
    x = 1.4 * torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    return x, dist.Normal(torch.zeros(3), math.sqrt(2)).to_event(1).log_prob(x)


@pytest.mark.parametrize("kind", ["point", "uniform", "log-normal", "one-site"])
def test_draws_of_a_guide_without_a_density_are_not_weighed(kind: Guide) -> None:
    """Methods that weigh them refuse with the way out; `auto` takes that way, says so, and is right."""
    x, truth = linear_data()
    fit = fit_of(Linear(kind), x)
    for method in ("importance", "refined"):
        with pytest.raises(PpvaeError, match=r"latent '(z|first)' has .* in the guide.*'laplace'"):
            ppvae.log_marginal(fit, x, method=method)
    with pytest.raises(PpvaeError, match=r'ais with start="q"'):
        ppvae.log_marginal(fit, x, method="ais", options={"start": "q"})
    result = ppvae.log_marginal(fit, x, method="auto", options={"max_seconds": 600.0})
    right(result, truth, share=0.9)
    assert "importance" not in result.method
    assert "q has no importance weights" in result.attrs["notes"]
    assert bool(result.elbo.isnull().all()) == (kind in ("point", "one-site"))
    for method in ("laplace", "exact"):
        right(ppvae.log_marginal(fit, x, method=method), truth, share=1.0)


@pytest.mark.parametrize("kind", ["point", "one-site"])
def test_a_point_mass_has_no_gaps(kind: Guide) -> None:
    x, _ = linear_data()
    with pytest.raises(PpvaeError, match="its ELBO does not exist"):
        ppvae.gaps(fit_of(Linear(kind), x), x)


def test_a_defence_covers_what_the_guide_does_not() -> None:
    """A share of draws from the prior gives a uniform guide a density everywhere, but a point mass none."""
    x, truth = linear_data()
    options = {"defence": 0.5}
    right(ppvae.log_marginal(fit_of(Linear("log-normal"), x), x, options=options, num_samples=20_000), truth, share=0.5)
    with pytest.raises(PpvaeError, match="has a point mass"):
        ppvae.log_marginal(fit_of(Linear("point"), x), x, options=options)


class Angle(ppvae.Model):
    """z ~ von Mises(2, 1), x ~ Normal((cos z, sin z), 0.7)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(x.new_tensor(2.0), 1.0))
            pyro.sample("x", self.of_x(z), obs=x)

    def of_x(self, z: Tensor) -> Any:
        return dist.Normal(torch.stack([z.cos(), z.sin()], -1), 0.7).to_event(1)

    def truth(self, x: Tensor) -> Tensor:
        """By the trapezoidal rule on the circle, exact to rounding."""
        z = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[:-1]
        prior = dist.VonMises(z.new_tensor(2.0), z.new_tensor(1.0)).log_prob(z)
        log_joint = prior[:, None] + self.of_x(z[:, None]).log_prob(x.double())
        return log_joint.logsumexp(0) + math.log(2 * math.pi / len(z))


@pytest.mark.parametrize(
    ("method", "share"),
    [("prior", 1.0), ("uniform", 1.0), ("importance", 0.3), ("refined", 0.9), ("ais", 0.9),
     ("auto", 0.9), ("exact", 1.0)],
)  # fmt: skip
def test_an_angle_has_one_turn(method: str, share: float) -> None:
    """torch declares ℝ for it, over which the prior has an infinite integral."""
    model = Angle()
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(3))
    fit = fit_of(model, x, "per-datapoint", epochs=100)
    num_samples = 200 if method == "ais" else 1000
    right(ppvae.log_marginal(fit, x, method=method, num_samples=num_samples), model.truth(x), share=share)


@pytest.mark.parametrize("family", [name for name in FAMILIES if not FAMILIES[name].takes_angles])
def test_a_family_that_is_not_periodic_takes_no_angle(family: str) -> None:
    """It would miss what lies beyond the cut of the circle."""
    with pytest.raises(PpvaeError, match=r"'z' is an angle, and family .* is not periodic: use 'mean-field'"):
        fit_of(Angle(), torch.randn(N, 2), family=family)


def test_laplace_takes_no_angle() -> None:
    x = torch.randn(N, 2)
    with pytest.raises(PpvaeError, match="'z' is an angle"):
        ppvae.log_marginal(fit_of(Angle(), x), x, method="laplace")


class Wide(dist.Normal):
    """A von Mises of concentration 3 that says ℝ."""

    def log_prob(self, value: Tensor) -> Tensor:
        return 3 * value.cos() - math.log(2 * math.pi * 4.880793)


class OwnPrior(Angle):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Wide(x.new_zeros(()), 1.0))
            pyro.sample("x", self.of_x(z), obs=x)


def test_a_prior_of_ones_own_must_be_a_density() -> None:
    x = torch.randn(N, 2)
    with pytest.raises(PpvaeError, match=r"'z' .Wide. integrates to .* not 1"):
        fit_of(OwnPrior(), x)


class Scored(Linear):
    """The linear model with one more term, which is no density."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.factor("prefers", -z.square().sum(-1))
            pyro.sample("x", dist.Normal(z + self.shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 0.5).to_event(1))


def test_a_factor_is_said() -> None:
    """∫ N(z) e^{−|z|²} N(x; z) dz = 3^(−3/2) N(x; 0, 1 + 1/3), which is no log p(x)."""
    x, _ = linear_data()
    result = ppvae.log_marginal(fit_of(Scored("point"), x), x, method="exact")
    truth = dist.Normal(torch.zeros(3), math.sqrt(4 / 3)).to_event(1).log_prob(x) - 1.5 * math.log(3)
    right(result, truth, share=1.0)
    assert "pyro.factor (prefers)" in result.attrs["notes"]


def test_the_clock_of_auto_is_said() -> None:
    """Which method a datum gets depends on the machine where the time ran out, and then only."""
    x, _ = linear_data()
    fit = fit_of(Linear("uniform"), 8 + x)
    for seconds in (0.0, 600.0):
        result = ppvae.log_marginal(fit, 8 + x, method="auto", options={"max_seconds": seconds, "methods": ["laplace"]})
        assert ("depend on the speed of the machine" in result.attrs["notes"]) == (seconds == 0)


class Several(ppvae.Model):
    """k ~ Categorical(½, ¼, ¼), x ~ Normal(k, 1); the guide enumerates k, and never takes the last value."""

    def __init__(self, values: int, drawn: bool = False) -> None:
        super().__init__()
        start = torch.zeros(values)
        self.infer: Any = {} if drawn else {"enumerate": "parallel"}
        self.last = torch.cat([torch.zeros(2), torch.full((values - 2,), -math.inf)])
        self.phi = {"logits": Local(start)}
        self.shift = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.5, 0.25, 0.25])), infer=self.infer)
            pyro.sample("x", dist.Normal(k.unsqueeze(-1) + self.shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=phi["logits"] + self.last), infer=self.infer)


@pytest.mark.parametrize(("values", "drawn"), [(2, False), (3, False), (3, True)])
def test_a_guide_that_never_takes_a_value(values: int, drawn: bool) -> None:
    """Fewer categories, or a logit of −∞: the bound is finite, and `auto` is right.

    Draws are refused; where all values are enumerated q cancels, and a logit of −∞ does no harm.
    """
    x = torch.linspace(-1, 3, N).unsqueeze(-1)
    settings = {"gradient": "loo", "num_particles": 4} if drawn else {}
    fit = fit_of(Several(values, drawn), x, **settings)
    assert math.isfinite(fit.history[-1]["valid_bound"])
    if values == 2 or drawn:
        with pytest.raises(PpvaeError, match="never takes"):
            ppvae.log_marginal(fit, x)
    parts = [dist.Normal(float(k), 1.0).log_prob(x[:, 0]) + math.log(p) for k, p in enumerate((0.5, 0.25, 0.25))]
    for method in ("importance", "auto") if values == 3 and not drawn else ("auto",):
        result = ppvae.log_marginal(fit, x, method=method)
        right(result, torch.stack(parts).logsumexp(0), share=1.0)
        assert bool((result.elbo <= result.log_marginal + 1e-5).all())


def test_a_value_that_q_never_takes_keeps_its_term_of_the_sum() -> None:
    """Σ_k p(x, k) does not depend on q, and the bound is the mean over the values that q takes."""
    x = torch.linspace(-1, 3, N).unsqueeze(-1)
    model = Several(3)
    posterior = ppvae.Posterior(model, {"logits": torch.zeros(N, 3)})
    densities = ppvae.log_densities(model, posterior, x)
    parts = [dist.Normal(float(k), 1.0).log_prob(x[:, 0]) + math.log(p) for k, p in enumerate((0.5, 0.25, 0.25))]
    torch.testing.assert_close(densities.weighed_ratio().logsumexp(0), torch.stack(parts).logsumexp(0))
    taken = torch.stack(parts[:2]).mean(0) + math.log(2)
    torch.testing.assert_close(densities.mean(densities.log_ratio), taken)


class Encodes(ppvae.Model):
    """z ~ Normal(0, 1), x ~ Normal(decoder(z), 0.5); q comes from a network in the guide, or from φ."""

    guide_modules = ("net",)

    def __init__(self, own: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.decoder, self.net = nn.Linear(2, 4), nn.Linear(4, 4)
        if not own:
            scale = Local(torch.ones(2), constraints.softplus_positive)
            self.phi = {"loc": Local(torch.zeros(2)), "scale": scale}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        loc, raw = self.net(x).chunk(2, -1)
        scale = raw.exp()
        if phi:
            loc, scale = phi["loc"], phi["scale"]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def test_an_encoder_inside_the_guide_has_an_amortization_gap() -> None:
    """The same as of a pair that declares φ, at the same q: within 4 standard errors of the optimisers' ends."""
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(9))
    inside = fit_of(Encodes(own=True), x)
    declared = Encodes(own=False)
    declared.load_state_dict(inside.model.state_dict())

    def source(x: Tensor) -> Phi:
        loc, raw = declared.net(x).chunk(2, -1)
        return {"loc": loc, "scale": raw.exp()}

    outside = ppvae.Pair(declared.eval(), source, (4,))
    one, other = (ppvae.gaps(pair, x, max_steps=600) for pair in (inside, outside))
    assert float(one.amortization_gap.mean()) > 0.3
    for name in ("elbo", "elbo_star", "approximation_gap", "amortization_gap"):
        a, b = ppvae.summarise(one, name), ppvae.summarise(other, name)
        assert abs(a.mean - b.mean) < SIGMAS * math.hypot(a.mc_se, b.mc_se) + 0.02  # the tolerance of the optimiser
    passed = ppvae.log_marginal(inside, x, method="refined")
    assert bool(passed.converged.all())
    assert float(passed.ess.median()) > float(ppvae.log_marginal(inside, x).ess.median())


class EncodesChain(Encodes):
    """q(z₂ | z₁) depends on a draw, so that it is no row of parameters."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.decoder(torch.stack([a, b], -1)), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(loc[..., 0], raw[..., 0].exp()))
            pyro.sample("b", dist.Normal(loc[..., 1] + 0.3 * a, raw[..., 1].exp()))


def test_a_gap_that_cannot_be_split_is_unknown() -> None:
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(9))
    result = ppvae.gaps(fit_of(EncodesChain(own=True), x), x, max_steps=50)
    for name in ("amortization_gap", "approximation_gap", "elbo_star"):
        assert bool(result[name].isnull().all())
    for name in ("elbo", "log_marginal"):
        assert bool(result[name].notnull().all())
