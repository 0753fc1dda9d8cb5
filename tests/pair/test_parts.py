"""Models with several observed sites, and latents with hostile names, can be sampled, reconstructed and exported."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import ppvae
from ppvae import PpvaeError
from ppvae.pair.parts import parts_of

N = 40


class Two(ppvae.Model):
    """z ~ Normal(0, 1) [2]; a = x[3, 0] ~ Normal(z, 0.5) and b = x[1:3] ~ Normal((z₁, 2 z₂), 1) are two sites."""

    def __init__(self, latent: str = "z") -> None:
        super().__init__()
        self.latent = latent
        self.unused = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample(self.latent, dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(z, 0.5).to_event(1), obs=x[..., [3, 0]])
            pyro.sample("b", dist.Normal(z * z.new_tensor([1.0, 2.0]), 1.0).to_event(1), obs=x[..., 1:3])


#: the covariance of x in the order of its columns
_LOADINGS = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
COVARIANCE = _LOADINGS @ _LOADINGS.mT + torch.diag(torch.tensor([0.25, 1.0, 1.0, 0.25]))


def array(tree: xr.DataTree, group: str, name: str) -> xr.DataArray:
    return tree[group].to_dataset()[name]


def rows(size: int = N) -> Tensor:
    return dist.MultivariateNormal(torch.zeros(4), COVARIANCE).sample(torch.Size([size]))


def fitted(model: ppvae.Model, x: Tensor, **options: Any) -> ppvae.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        data = ppvae.Data("rows", x, x[:5], x[:5], "gaussian", "real")
        return ppvae.fit(model, data, **{"epochs": 3, **options})


@pytest.fixture(scope="module")
def two() -> ppvae.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return fitted(Two(), rows())


def test_samples_of_two_sites_are_draws_of_x(two: ppvae.Fit) -> None:
    """Mean and covariance of 20,000 draws, 4 + 10 numbers within 4.5 of their standard errors."""
    size = 20_000
    drawn = ppvae.sample(two, size).x
    assert (drawn.mean(0).abs() < 4.5 * (COVARIANCE.diagonal() / size).sqrt()).all()
    error = ((COVARIANCE.square() + torch.outer(COVARIANCE.diagonal(), COVARIANCE.diagonal())) / size).sqrt()
    assert ((drawn.mT.cov() - COVARIANCE).abs() < 4.5 * error).all()


def test_two_sites_are_reconstructed_in_their_places(two: ppvae.Fit) -> None:
    found = ppvae.reconstruct(two, rows(9))
    z = found.latents["z"]
    torch.testing.assert_close(found.mean, torch.stack([z[:, 1], z[:, 0], 2 * z[:, 1], z[:, 0]], 1))


def test_two_sites_are_judged_and_exported(two: ppvae.Fit, tmp_path: Path) -> None:
    x = rows(6)
    assert ppvae.sbc(two, num_data=20, num_draws=39)
    check = ppvae.posterior_predictive_check(two, x, num_draws=20)
    assert bool(check["replicated"].notnull().all())
    tree = ppvae.to_datatree(two, x, num_draws=7)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as again:
        np.testing.assert_array_equal(array(again, "observed_data", "a").values, x[:, [3, 0]])
        np.testing.assert_array_equal(array(again, "observed_data", "b").values, x[:, 1:3])
        z = torch.as_tensor(array(again, "posterior", "z").values[0])
        expected = dist.Normal(z, 0.5).log_prob(x[:, [3, 0]]).sum(-1)
        np.testing.assert_allclose(array(again, "log_likelihood", "a").values[0], expected, rtol=1e-4, atol=1e-4)
        assert array(again, "posterior_predictive", "b").shape == (1, 7, 6, 2)


@pytest.mark.parametrize(
    ("latent", "variable"), [("chain", "chain_"), ("draw", "draw_"), ("datum", "datum_"), ("a/z", "a.z"), ("", "_")]
)
def test_no_latent_vanishes(latent: str, variable: str, tmp_path: Path) -> None:
    x = rows()
    fit = fitted(Two(latent), x)
    tree = ppvae.to_datatree(fit, x[:6], num_draws=7)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as again:
        assert array(again, "posterior", variable).shape == (1, 7, 6, 2)
        assert array(again, "posterior", variable).attrs["site"] == latent
    assert ppvae.sbc(fit, num_data=20, num_draws=39)
    assert ppvae.latent_usage(fit, x)


class Narrow(Two):
    """Column 3 only conditions: x[:3] ~ Normal(z + x[3], 1)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + x[..., 3:], 1.0).to_event(1), obs=x[..., :3])


def test_numbers_that_no_site_observes_are_kept(tmp_path: Path) -> None:
    x = rows()
    fit = fitted(Narrow(), x)
    found = ppvae.reconstruct(fit, x[:6])
    torch.testing.assert_close(found.x[:, 3], x[:6, 3])
    torch.testing.assert_close(found.mean[:, :3], found.latents["z"] + x[:6, 3:])
    tree = ppvae.to_datatree(fit, x[:6], num_draws=7)
    assert array(tree, "posterior_predictive", "x").shape == (1, 7, 6, 3)
    with pytest.raises(PpvaeError, match=r"observes 3 of the 4 numbers of x, .* \(number 3 is the first\)"):
        ppvae.sample(fit, 4)
    with pytest.raises(PpvaeError, match="observes 3 of the 4"):
        ppvae.sbc(fit, num_data=20, num_draws=39)


class Scored(Two):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            pyro.factor("prefers", -z.square().sum(-1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Doubled(Two):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=2 * x)


class Twice(Two):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("b", dist.Normal(z[..., :2], 1.0).to_event(1), obs=x[..., :2])


def test_what_has_no_meaning_is_refused() -> None:
    x = rows()
    doubled, twice = fitted(Doubled(), x), fitted(Twice(), x)
    for call in (lambda fit: ppvae.sample(fit, 4), lambda fit: ppvae.reconstruct(fit, x[:4])):
        with pytest.raises(PpvaeError, match="something else than numbers of x at site 'x'"):
            call(doubled)
        with pytest.raises(PpvaeError, match="the same number of x at several"):
            call(twice)


def test_a_factor_leaves_reconstructions() -> None:
    x = rows()
    fit = fitted(Scored(), x)
    assert ppvae.reconstruct(fit, x[:4]).x.shape == (4, 4)
    with pytest.raises(PpvaeError, match=r"pyro\.factor \(prefers\), so that runs of it are not draws"):
        ppvae.sample(fit, 4)


def test_the_places_of_a_lone_site() -> None:
    """Of every model of the zoo: all of x, in order."""
    for name in ppvae.list_models():
        model = ppvae.create(name, x_dim=6)
        parts = parts_of(model, torch.zeros(2, 2, 3))
        assert [place.tolist() for place in parts.places.values()] == [[0, 1, 2, 3, 4, 5]]
        assert math.prod((2, 3)) == parts.size
