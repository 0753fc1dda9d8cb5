"""Gaussian mixture model.

    k ~ Categorical(π)                                          k in {0, …, K − 1}
    x ~ Normal(μ_k, Σ_k)                                        x [x_dim], Σ_k diagonal or full

The assignment k is summed out exactly, or approximated by q(k | φ) = Categorical(φ), whose values are enumerated:
then a table of rows and an encoder over assignments stand beside the true posterior p(k | x), the
responsibilities, and inference by that posterior is the E-step of EM (Dempster, Laird & Rubin 1977).
"""

from __future__ import annotations

from typing import Literal

import pyro
import torch
from pyro.distributions import Categorical, MultivariateNormal, Normal, TorchDistribution
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn

from ppvae import require
from ppvae.catalogue import register
from ppvae.errors import PpvaeError
from ppvae.nn.networks import ACTIVATIONS, Standardize, moments, recognition
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model


@register("gmm", compare={"data": "iris", "lr": 0.02, "epochs": 320, "patience": None})
class GMM(Model):
    """A mixture of K Gaussians.

    Args:
        x_dim: numbers in one datapoint.
        num_components: K.
        covariance: "diagonal" or "full".
        assignment: "categorical": q(k | φ) is part of the family. "summed": k is summed out, φ is empty.
        variance_floor: added to every variance (to the diagonal of a full Σ_k), in the data's squared units.
        reg_covar: optional MAP penalty ½ · reg_covar · Σ_k N π_k tr Σ_k⁻¹, which has the fixed points of EM
            as scikit-learn runs it with this `reg_covar`.
        activation: of the encoder: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or "sigmoid".
    """

    shift: Tensor
    scale: Tensor
    num_data: Tensor

    def __init__(
        self,
        x_dim: int,
        num_components: int = 3,
        covariance: Literal["diagonal", "full"] = "diagonal",
        assignment: Literal["categorical", "summed"] = "categorical",
        variance_floor: float = 1e-6,
        reg_covar: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.x_dim = require.count("x_dim", x_dim)
        self.num_components = require.count("num_components", num_components)
        self.covariance = require.one_of("covariance", covariance, ("diagonal", "full"))
        self.assignment = require.one_of("assignment", assignment, ("categorical", "summed"))
        self.variance_floor = require.positive("variance_floor", variance_floor)
        self.reg_covar = require.positive("reg_covar", reg_covar, zero=True)
        self.activation = require.one_of("activation", activation, ACTIVATIONS)
        # locations and covariances are learned in units of the data's own, so that no learning rate depends on them
        self.register_buffer("shift", torch.zeros(x_dim))
        self.register_buffer("scale", torch.ones(x_dim))
        self.register_buffer("num_data", torch.ones(()))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.raw_loc = nn.Parameter(torch.randn(num_components, x_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, x_dim))
        if covariance == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(num_components, x_dim, x_dim))
        if assignment == "categorical":
            self.phi = {"logits": Local(torch.zeros(num_components))}

    def model(self, x: Tensor) -> None:
        components = self.components()
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", _at(components, k), obs=x.flatten(1))

    def guide(self, x: Tensor, phi: Phi) -> None:
        if self.assignment == "summed":
            return
        with pyro.plate("data", len(x)):
            pyro.sample("k", Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})

    def encoder(self) -> nn.Module:
        body = recognition(self.x_dim, 50, 50, activation=self.activation)
        return nn.Sequential(nn.Flatten(), Standardize(self.shift, self.scale), body)

    def start(self, x: Tensor) -> None:
        """Centres by k-means++ (Arthur & Vassilvitskii 2007), spreads at the data's own, equal weights."""
        if len(x) < self.num_components:
            raise PpvaeError(f"{self.num_components} components need at least as many data, got {len(x)}")
        mean, std = moments(x)
        seed = int(torch.randint(2**31, ()))
        standard = ((x.flatten(1) - mean) / std).double().cpu().numpy()
        centres, _ = kmeans_plusplus(standard, self.num_components, random_state=seed)
        with torch.no_grad():
            self.shift.copy_(mean)
            self.scale.copy_(std)
            self.num_data.fill_(len(x))
            self.raw_loc.copy_(torch.as_tensor(centres))

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
        return self.logits.log_softmax(-1) + self.components().log_prob(x.flatten(1).unsqueeze(-2))

    def log_penalty(self) -> Tensor:
        if not self.reg_covar:
            return self.logits.new_zeros(())
        components = self.components()
        if isinstance(components, MultivariateNormal):
            trace = torch.cholesky_inverse(components.scale_tril).diagonal(dim1=-2, dim2=-1).sum(-1)
        else:
            trace = components.variance.reciprocal().sum(-1)
        # scikit-learn adds reg_covar in the M-step of Σ alone, where N π_k stands for the count: hence no gradient to π
        weights = self.logits.softmax(-1).detach()
        return -0.5 * self.reg_covar * self.num_data * (weights * trace).sum()

    def components(self) -> TorchDistribution:
        """The K Gaussians, batch shape [K]."""
        loc = self.shift + self.scale * self.raw_loc
        if self.covariance == "diagonal":
            variance = (self.scale * self.log_scale.exp()).square() + self.variance_floor
            return Normal(loc, variance.sqrt()).to_event(1)
        factor = self.off_diagonal.tril(-1) + torch.diag_embed(self.log_scale.exp())
        factor = self.scale.unsqueeze(-1) * factor
        floor = self.variance_floor * torch.eye(self.x_dim, dtype=loc.dtype, device=loc.device)
        return MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(factor @ factor.mT + floor))


def _at(components: TorchDistribution, k: Tensor) -> TorchDistribution:
    """The components chosen by k [...], batch shape [...]."""
    if isinstance(components, MultivariateNormal):
        return MultivariateNormal(components.loc[k], scale_tril=components.scale_tril[k])
    return Normal(components.base_dist.loc[k], components.base_dist.scale[k]).to_event(1)
