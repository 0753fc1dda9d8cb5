"""Small pairs without log_prob, one for each kind that methods of estimating log p(x) distinguish, and what p(x) is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.integrate import tanhsinh
from torch import Tensor, nn
from torch.nn.functional import one_hot

import ppvae
from ppvae import Local
from ppvae.pair.local import Phi

Prior = Literal["normal", "gamma", "beta", "cauchy", "uniform"]
MARK: Any = {"enumerate": "parallel"}


def fitted(model: ppvae.Model, x: Tensor, **options: Any) -> ppvae.Fit:
    """A hardly trained fit, in float64."""
    data = ppvae.Data("small", x, x[:2], x[:2], "gaussian", "real")
    settings = {"steps": 5, "batch_size": 10, "precision": "64-true", **options}
    return ppvae.fit(model, data, "amortized", **settings)


class Curve(ppvae.Model):
    """z [dims] ~ prior; x [3] ~ Normal((Σ sin 2z, Σ z² − 1, Π z), noise): a generative model alone."""

    def __init__(self, prior: Prior = "normal", dims: int = 1, noise: float = 0.5) -> None:
        super().__init__()
        self.prior: Prior = prior
        self.dims, self.noise = dims, noise

    def of_z(self, like: Tensor) -> Any:
        at = like.new_zeros(self.dims)
        return {
            "normal": dist.Normal(at, 1.0),
            "gamma": dist.Gamma(at + 2, 1.0),
            "beta": dist.Beta(at + 0.8, 2.0),
            "cauchy": dist.Cauchy(at, 1.0),
            "uniform": dist.Uniform(at - 1, at + 2),
        }[self.prior].to_event(1)

    def of_x(self, z: Tensor) -> Any:
        mean = torch.stack([(2 * z).sin().sum(-1), z.square().sum(-1) - 1, z.prod(-1)], -1)
        return dist.Normal(mean, self.noise).to_event(1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.of_z(x))
            pyro.sample("x", self.of_x(z), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) at one x [3] and z [..., dims]."""
        return self.of_z(x).log_prob(z) + self.of_x(z).log_prob(x)


class Switched(ppvae.Model):
    """k ~ Bernoulli(0.3), summed out; z ~ Beta(2, 1.5); x [3] ~ Normal(z, z + k, −z k; 0.5)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)), infer=MARK)
            z = pyro.sample("z", dist.Beta(x.new_tensor(2.0), 1.5))
            pyro.sample("x", self.of_x(z, k), obs=x)

    def of_x(self, z: Tensor, k: Tensor) -> Any:
        z, k = torch.broadcast_tensors(z, k)
        return dist.Normal(torch.stack([z, z + k, -z * k], -1), 0.5).to_event(1)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) at one x [3] and z [..., 1]."""
        at = z.squeeze(-1)
        parts = [
            dist.Bernoulli(x.new_tensor(0.3)).log_prob(k) + self.of_x(at, k).log_prob(x)
            for k in x.new_tensor([0.0, 1.0])
        ]
        return torch.stack(parts).logsumexp(0) + dist.Beta(x.new_tensor(2.0), 1.5).log_prob(at)


class Coins(ppvae.Model):
    """k ~ Categorical(π), c ~ Bernoulli(p_k); x [3] ~ Normal((k, c, k − 2 c), 0.8).

    Args:
        how: "enumerated" in the guide, "summed" out by the model, or "drawn" by the guide.
    """

    def __init__(self, how: Literal["enumerated", "summed", "drawn"]) -> None:
        super().__init__()
        self.how = how
        self.shift = nn.Parameter(torch.zeros(3))
        self.phi = {} if how == "summed" else {"k": Local(torch.zeros(3)), "c": Local(torch.zeros(3))}

    def model(self, x: Tensor) -> None:
        infer: Any = {} if self.how == "drawn" else MARK
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.5, 0.3, 0.2])), infer=infer)
            c = pyro.sample("c", dist.Bernoulli(x.new_tensor([0.2, 0.5, 0.9])[k]), infer=infer)
            pyro.sample("x", self.of_x(k, c), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        infer: Any = {} if self.how == "drawn" else MARK
        if self.how == "summed":
            return
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=phi["k"]), infer=infer)
            pyro.sample("c", dist.Bernoulli(logits=(one_hot(k, 3) * phi["c"]).sum(-1)), infer=infer)

    def of_x(self, k: Tensor, c: Tensor) -> Any:
        k, c = torch.broadcast_tensors(k.to(c), c)
        return dist.Normal(torch.stack([k, c, k - 2 * c], -1) + self.shift, 0.8).to_event(1)

    def truth(self, x: Tensor) -> Tensor:
        """log p(x) [B]."""
        p = x.new_tensor([0.2, 0.5, 0.9])
        parts = []
        for k, c in itertools.product(range(3), range(2)):
            weight = x.new_tensor([0.5, 0.3, 0.2])[k] * (p[k] if c else 1 - p[k])
            parts.append(weight.log() + self.of_x(torch.tensor(k), x.new_tensor(float(c))).log_prob(x))
        return torch.stack(parts).logsumexp(0).detach()


class Labelled(ppvae.Model):
    """k ~ π, z ~ Normal(μ_k, 1), x [3] ~ Normal(z, 0.8), and a family q(k) q(z | k) whose k is enumerated."""

    def __init__(self) -> None:
        super().__init__()
        positive = dist.constraints.positive
        self.phi = {
            "logits": Local(torch.zeros(2)),
            "loc": Local(torch.zeros(2)),
            "scale": Local(torch.ones(2), positive),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.4)), infer=MARK)
            z = pyro.sample("z", dist.Normal(3 * k - 1, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + x.new_zeros(3), 0.8).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(logits=phi["logits"][..., 0]), infer=MARK)
            loc, scale = (torch.where(k == 1, phi[name][..., 1], phi[name][..., 0]) for name in ("loc", "scale"))
            pyro.sample("z", dist.Normal(loc, scale))

    def truth(self, x: Tensor) -> Tensor:
        covariance = 0.64 * torch.eye(3).to(x) + 1
        parts = [
            math.log(p) + dist.MultivariateNormal(x.new_full((3,), mean), covariance).log_prob(x)
            for p, mean in ((0.6, -1.0), (0.4, 2.0))
        ]
        return torch.stack(parts).logsumexp(0)


class OneLatent(Protocol):
    """A model of one continuous latent, with its log p(x, z) at one x and z [..., 1]."""

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor: ...


def by_quadrature(
    model: OneLatent, x: Tensor, ends: tuple[float, float], pieces: int = 50, more: Sequence[float] = ()
) -> Tensor:
    """log p(x) [B] by scipy's double exponential quadrature over z between the ends, in pieces, cut at more points."""
    cuts = np.unique([*np.linspace(*ends, pieces + 1), *more])
    lattice = torch.cat([torch.linspace(*ends, 100_002, dtype=torch.float64)[1:-1], torch.tensor(cuts[1:-1])])
    values = []
    for row in x:
        peak = model.log_joint(row, lattice.unsqueeze(-1)).max()

        def density(z: np.ndarray, row: Tensor = row, peak: Tensor = peak) -> np.ndarray:
            return (model.log_joint(row, torch.as_tensor(z).unsqueeze(-1)) - peak).exp().numpy()

        found = tanhsinh(density, cuts[:-1], cuts[1:], rtol=1e-12, atol=1e-16)
        values.append(math.log(math.fsum(found.integral)) + peak.item())
    return x.new_tensor(values)


X = torch.tensor([[0.3, -0.6, 0.2], [1.0, 0.4, -1.1], [2.0, 1.2, 0.5]], dtype=torch.float64)

#: a kind of pair → a model of that kind whose latents have bounded support
MODELS: dict[str, Callable[[], ppvae.Model]] = {
    "continuous": lambda: Curve("beta"),
    "mixed": Switched,
    "enumerated": lambda: Coins("enumerated"),
    "summed": lambda: Coins("summed"),
    "drawn": lambda: Coins("drawn"),
}


def truth(model: ppvae.Model, x: Tensor) -> Tensor:
    """log p(x) [B] of one of `MODELS`."""
    if isinstance(model, Coins):
        return model.truth(x)
    assert isinstance(model, (Curve, Switched))
    return by_quadrature(model, x, (0.0, 1.0))


class Linear(ppvae.Model):
    """z [2] ~ Normal(0, 1); x [4] ~ Normal(W z + b, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Branching(ppvae.Model):
    """Looks at its latent."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = z if bool((z > 0).any()) else 1.0 * z
            mean = (loc + self.loc).unsqueeze(-1) * torch.ones_like(x)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
