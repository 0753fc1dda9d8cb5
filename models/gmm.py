"""Gaussian mixture model.

    k ~ Categorical(π)                                          k in {0, …, K − 1}
    x ~ Normal(μ_k, Σ_k)                                        x [x_dim], Σ_k diagonal or full

The assignment k is summed out exactly, or approximated by q(k | φ) = Categorical(φ), whose values are enumerated.
Then a table of rows and an encoder can be compared with the true posterior p(k | x), the responsibilities;
inference by that posterior is the E-step of EM (Dempster, Laird & Rubin 1977).
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Categorical, MultivariateNormal, Normal, TorchDistribution
from torch import Tensor, nn

from ppvae import require
from ppvae.catalogue import register
from ppvae.errors import PpvaeError
from ppvae.nn.networks import ACTIVATIONS, recognition
from ppvae.nn.units import HasUnits, Standardize
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model

#: fraction of a column's variance: the default floor, and that of EM before a fit
_RELATIVE_FLOOR = 1e-3
#: the default floor of earlier versions, in the data's squared units; their weights do not hold it
_EARLIER_FLOOR = 1e-6
#: EM before a fit takes at most this number of rows, so that it needs seconds on MNIST
_START_ROWS = 5000


# one batch of all of iris, as noise of batches would move seeds and strategies to different optima
@register("gmm", compare={"data": "iris", "lr": 0.02, "epochs": 640, "batch_size": 150, "patience": None})
class GMM(HasUnits, Model):
    """A mixture of K Gaussians.

    Args:
        x_dim: numbers in one datapoint.
        num_components: K.
        covariance: "diagonal" or "full".
        assignment: "categorical": q(k | φ) is part of the family. "summed": k is summed out, φ is empty.
        relative_floor: this fraction of each column's variance in the training data is added to every variance (to
            the diagonal of a full Σ_k). It keeps a component from shrinking onto one datapoint, where p(x) is
            unbounded, and makes a fit independent of the units of the data. A constant column counts as having the mean
            variance of the others, or 1 where all are constant.
        variance_floor: added in place of that fraction, the same number in every column, in the data's squared units.
        num_starts: runs of EM; a fit starts from the centres and weights of the best.
        reg_covar: optional MAP penalty ½ · reg_covar · Σ_k N π_k tr Σ_k⁻¹, which has the fixed points of EM
            as scikit-learn runs it with this `reg_covar`.
        activation: of the encoder: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or "sigmoid".
    """

    num_data: Tensor
    floor: Tensor

    def __init__(
        self,
        x_dim: int,
        num_components: int = 3,
        covariance: Literal["diagonal", "full"] = "diagonal",
        assignment: Literal["categorical", "summed"] = "categorical",
        variance_floor: float | None = None,
        reg_covar: float = 0.0,
        relative_floor: float = _RELATIVE_FLOOR,
        num_starts: int = 10,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.x_dim = require.count("x_dim", x_dim)
        self.num_components = require.count("num_components", num_components)
        self.covariance = require.one_of("covariance", covariance, ("diagonal", "full"))
        self.assignment = require.one_of("assignment", assignment, ("categorical", "summed"))
        self.variance_floor = None if variance_floor is None else require.positive("variance_floor", variance_floor)
        self.reg_covar = require.positive("reg_covar", reg_covar, zero=True)
        self.relative_floor = require.positive("relative_floor", relative_floor)
        self.num_starts = require.count("num_starts", num_starts)
        self.activation = require.one_of("activation", activation, ACTIVATIONS)
        self.register_units(x_dim)  # locations and covariances are learned in units of the data's deviations
        self.register_buffer("num_data", torch.ones(()))
        self.register_buffer("floor", self._floor(torch.ones(x_dim)))
        self.register_load_state_dict_pre_hook(_earlier_floor)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.raw_loc = nn.Parameter(torch.randn(num_components, x_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, x_dim))
        if covariance == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(num_components, x_dim, x_dim))
        if assignment == "categorical":
            self.phi = {"logits": Local(torch.zeros(num_components))}

    def model(self, x: Tensor) -> None:
        components = self._components()
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", self.in_units_of_data(_at(components, k)), obs=x.flatten(1))

    def guide(self, x: Tensor, phi: Phi) -> None:
        if self.assignment == "summed":
            return
        with pyro.plate("data", len(x)):
            pyro.sample("k", Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})

    def encoder(self) -> nn.Module:
        body = recognition(self.x_dim, 50, 50, activation=self.activation)
        return nn.Sequential(nn.Flatten(), Standardize(self.shift, self.scale), body)

    def start(self, x: Tensor) -> None:
        """Set centres and weights to those of the best of `num_starts` runs of EM, and deviations to those of the data.

        The deviations of EM would be too small for approximate inference: q starts uniform, and would pull the centres
        together before it has learned.
        """
        if len(x) < self.num_components:
            raise PpvaeError(f"{self.num_components} components need at least as many data, got {len(x)}")
        rows = x.detach().flatten(1).cpu().double()
        mean, scale = self.learn_units(rows)
        with torch.no_grad():
            self.num_data.fill_(len(x))
            self.floor.copy_(self._floor(scale.square()))
            weights, centres = self._best_em((rows - mean) / scale)
            self.logits.copy_(weights.log())
            self.raw_loc.copy_(centres)

    def _best_em(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [K], the largest first, and centres [K, x_dim] of a mixture of standardised data x [N, x_dim].

        They are those of the highest mean log p(x) among short runs of EM (Biernacki, Celeux & Govaert 2003). Each run
        starts at clusters of k-means, which start by k-means++ (Arthur & Vassilvitskii 2007). EM always
        has the default floor, so that no singular component wins. Of many rows it uses a random part.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        seed = int(torch.randint(2**31, ()))
        most = max(_START_ROWS, 20 * self.num_components)
        if len(x) > most:
            x = x[torch.randperm(len(x))[:most]]
        em = GaussianMixture(
            self.num_components,
            covariance_type="diag" if self.covariance == "diagonal" else "full",
            reg_covar=_RELATIVE_FLOOR,
            n_init=self.num_starts,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # EM stopped early, or there are fewer distinct rows than components: training can continue in both cases
            warnings.simplefilter("ignore", ConvergenceWarning)
            em.fit(x.expand(max(len(x), 2), -1).numpy())  # scikit-learn refuses a single row
        weights, order = torch.as_tensor(em.weights_).sort(descending=True, stable=True)
        return weights, torch.as_tensor(em.means_)[order]

    def _floor(self, variance: Tensor) -> Tensor:
        """The number added to the variances of each column [x_dim], for data of variance `variance` [x_dim]."""
        if self.variance_floor is not None:
            return torch.full_like(variance, self.variance_floor)
        return self.relative_floor * variance

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log Σ_k π_k Normal(x; μ_k, Σ_k), [B]."""
        return self.log_joint(x).logsumexp(-1)

    def exact_phi(self, x: Tensor) -> Phi:
        return {"logits": self.log_joint(x).log_softmax(-1)}

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x), [B, K]."""
        return self.log_joint(x).softmax(-1)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, k), [B, K]."""
        components = self.in_units_of_data(self._components())
        return self.logits.log_softmax(-1) + components.log_prob(x.flatten(1).unsqueeze(-2))

    def log_penalty(self) -> Tensor:
        if not self.reg_covar:
            return self.logits.new_zeros(())
        components = self.components()
        if isinstance(components, MultivariateNormal):
            trace = torch.cholesky_inverse(components.scale_tril).diagonal(dim1=-2, dim2=-1).sum(-1)
        else:
            trace = components.variance.reciprocal().sum(-1)
        # scikit-learn adds reg_covar only in the M-step of Σ, where N π_k is the count: hence no gradient to π
        weights = self.logits.softmax(-1).detach()
        return -0.5 * self.reg_covar * self.num_data * (weights * trace).sum()

    def components(self) -> TorchDistribution:
        """The K Gaussians, batch shape [K]."""
        inside = self._components()
        if isinstance(inside, MultivariateNormal):
            tril = self.scale.unsqueeze(-1) * inside.scale_tril
            return MultivariateNormal(self.shift + self.scale * inside.loc, scale_tril=tril)
        return Normal(self.shift + self.scale * inside.mean, self.scale * inside.stddev).to_event(1)

    def _components(self) -> TorchDistribution:
        """The K Gaussians in units of the data's deviations."""
        floor = self.floor / self.scale.square()
        if self.covariance == "diagonal":
            return Normal(self.raw_loc, ((2 * self.log_scale).exp() + floor).sqrt()).to_event(1)
        factor = self.off_diagonal.tril(-1) + torch.diag_embed(self.log_scale.exp())
        covariance = factor @ factor.mT + torch.diag(floor)
        return MultivariateNormal(self.raw_loc, scale_tril=torch.linalg.cholesky(covariance))


def _at(components: TorchDistribution, k: Tensor) -> TorchDistribution:
    """The components chosen by k [...], batch shape [...]."""
    if isinstance(components, MultivariateNormal):
        return MultivariateNormal(components.loc[k], scale_tril=components.scale_tril[k])
    return Normal(components.base_dist.loc[k], components.base_dist.scale[k]).to_event(1)


def _earlier_floor(model: GMM, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the floor to weights that an earlier version saved."""
    if f"{prefix}shift" in weights and f"{prefix}floor" not in weights:
        floor = _EARLIER_FLOOR if model.variance_floor is None else model.variance_floor
        weights[f"{prefix}floor"] = torch.full_like(model.floor, floor)
