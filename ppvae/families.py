"""What q(z | φ) may look like: families for any model, in unconstrained space.

Each is made from the local sites of a model and says which local parameters it needs. A joint over several sites is
written as q(z¹) q(z² | z¹) …, in the model's own order, so that every site has a distribution of its own; T_s is the
bijection from ℝⁿ onto the support of site s. The ladder is made from the model itself, and for Gaussian latents alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import biject_to

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.local import Local, Phi
from ppvae.model import Model
from ppvae.randomness import seeded
from ppvae.story import tell

FamilyName = Literal["mean-field", "full-covariance", "low-rank", "mixture", "iaf", "spline", "ladder"]
_NO_SHAPE = torch.Size()
FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)


@dataclass(frozen=True)
class LocalSite:
    """A local latent: its support, the dims of its event, and the start of its unconstrained value [*raw]."""

    name: str
    support: constraints.Constraint
    event_dim: int
    mean: Tensor
    std: Tensor

    @property
    def size(self) -> int:
        """Numbers in the unconstrained value."""
        return self.mean.numel()


class Family(Protocol):
    """A guide, and the declaration of its local parameters."""

    phi: dict[str, Local]

    def __call__(self, x: Tensor, phi: Phi) -> None: ...


def _sample(site: LocalSite, q: Any) -> Tensor:
    """Sample a site from q over its unconstrained event; returns the unconstrained value [..., B, size]."""
    if site.support is constraints.real:
        value = pyro.sample(site.name, q)
        raw = value
    else:
        bijection = biject_to(site.support).with_cache()
        q = dist.TransformedDistribution(q, [bijection])
        value = pyro.sample(site.name, q.to_event(site.event_dim - len(q.event_shape)))
        raw = bijection.inv(value)
    return raw.flatten(raw.dim() - site.mean.dim()) if site.mean.dim() else raw.unsqueeze(-1)


def _shaped(site: LocalSite, q: Any) -> Any:
    """A distribution over flat vectors [size] as one over the site's unconstrained event."""
    if site.mean.dim() == 1:
        return q
    reshape = dist.transforms.ReshapeTransform(torch.Size([site.size]), site.mean.shape, cache_size=1)
    return dist.TransformedDistribution(q, [reshape])


class MeanField:
    """q(z) = Πₛ T_s # Normal(loc_s, diag scale_s²).

    The family of Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference", one row a datapoint.
    """

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.phi = {}
        for site in sites:
            self.phi[f"{site.name}_loc"] = Local(site.mean)
            self.phi[f"{site.name}_scale"] = Local(site.std, constraints.softplus_positive)

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                normal = dist.Normal(phi[f"{site.name}_loc"], phi[f"{site.name}_scale"])
                _sample(site, normal.to_event(site.mean.dim()))


class _Joint:
    """A family over the concatenated unconstrained sites: mean and standard deviation [D] at the start."""

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.mean = torch.cat([site.mean.flatten() for site in sites])
        self.std = torch.cat([site.std.flatten() for site in sites])

    def parts(self) -> Iterator[tuple[LocalSite, slice]]:
        """Each site with its place in the vector."""
        at = 0
        for site in self.sites:
            yield site, slice(at, at + site.size)
            at += site.size


class FullCovariance(_Joint):
    """q(z) = T # Normal(loc, L Lᵀ), over all sites jointly."""

    def __init__(self, sites: list[LocalSite]) -> None:
        super().__init__(sites)
        self.phi = {"loc": Local(self.mean), "scale_tril": Local(torch.diag(self.std), constraints.lower_cholesky)}

    def __call__(self, x: Tensor, phi: Phi) -> None:
        loc, tril = phi["loc"], phi["scale_tril"]
        noise: list[Tensor] = []  # ε of the sites so far: z = loc + L ε
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                mean, block = loc[..., at], tril[..., at, at]
                if noise:
                    before = torch.cat(noise, -1)
                    mean = mean + (tril[..., at, : at.start] @ before.unsqueeze(-1)).squeeze(-1)
                z = _sample(site, _shaped(site, dist.MultivariateNormal(mean, scale_tril=block)))
                gap = (z - mean).unsqueeze(-1)
                noise.append(torch.linalg.solve_triangular(block, gap, upper=False).squeeze(-1))


class LowRank(_Joint):
    """q(z) = T # Normal(loc, W Wᵀ + diag scale²), W of a few columns, over all sites jointly (Rezende et al. 2014).

    With the factor u ~ Normal(0, I) behind W, a site given those before it is Normal again, of the posterior of u.

    Args:
        rank: columns of W.
    """

    def __init__(self, sites: list[LocalSite], *, rank: int = 1) -> None:
        super().__init__(sites)
        self.rank = require.count("rank", rank)
        # a little correlation to start from: at W = 0 its gradient would vanish
        columns = torch.eye(len(self.mean))[:, torch.arange(rank) % len(self.mean)]
        self.phi = {
            "loc": Local(self.mean),
            "factor": Local(0.1 * self.std.unsqueeze(-1) * columns.to(self.std)),
            "scale": Local(self.std, constraints.softplus_positive),
        }

    def __call__(self, x: Tensor, phi: Phi) -> None:
        loc, factor, scale = phi["loc"], phi["factor"], phi["scale"]
        eye = torch.eye(self.rank, dtype=loc.dtype, device=loc.device)
        precision, pull = eye, factor.new_zeros(self.rank)  # of u given the sites so far
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                tril = torch.linalg.cholesky(precision)
                mean_u = torch.cholesky_solve(pull.unsqueeze(-1), tril).squeeze(-1)
                spread = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False).mT  # its square: Cov u
                block = factor[..., at, :]
                mean = loc[..., at] + (block @ mean_u.unsqueeze(-1)).squeeze(-1)
                variance = scale[..., at].square()
                z = _sample(site, _shaped(site, dist.LowRankMultivariateNormal(mean, block @ spread, variance)))
                weighed = block / variance.unsqueeze(-1)
                precision = precision + weighed.mT @ block
                pull = pull + (weighed.mT @ (z - loc[..., at]).unsqueeze(-1)).squeeze(-1)


class Mixture(_Joint):
    """q(z) = T # Σ_c π_c Normal(loc_c, diag scale_c²), over all sites jointly.

    Its draws carry pathwise gradients (Jankowiak & Karaletsos 2019, "Pathwise derivatives for multivariate
    distributions"). A site given those before it is a mixture whose weights have seen them.

    Args:
        num_components: C.
    """

    #: the pathwise derivative has none of its own
    differentiable_once = True

    def __init__(self, sites: list[LocalSite], *, num_components: int = 3) -> None:
        super().__init__(sites)
        self.num_components = require.count("num_components", num_components, least=2)
        # apart from the start, or all components would stay the same
        apart = torch.linspace(-0.5, 0.5, num_components, dtype=self.mean.dtype).unsqueeze(-1)
        self.phi = {
            "logits": Local(torch.zeros(num_components, dtype=self.mean.dtype)),
            "locs": Local(self.mean + apart * self.std),
            "scales": Local(self.std.expand(num_components, -1).clone(), constraints.softplus_positive),
        }

    def __call__(self, x: Tensor, phi: Phi) -> None:
        logits, locs, scales = phi["logits"], phi["locs"], phi["scales"]
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                loc, scale = locs[..., at], scales[..., at]
                shape = torch.broadcast_shapes(logits.shape, loc.shape[:-1])
                # a row that ran off to NaN shows in its bound, where others are not disturbed
                weights = logits.nan_to_num().expand(shape)
                full = (loc.expand(*shape, site.size), scale.expand(*shape, site.size), weights)
                z = _sample(site, _shaped(site, _Mixture(*full)))
                logits = logits + dist.Normal(loc, scale).log_prob(z.unsqueeze(-2)).sum(-1)


class _Mixture(dist.MixtureOfDiagNormals):
    """Pyro's, of which several draws are drawn in one go."""

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        parts = (self.locs, self.coord_scale, self.component_logits.unsqueeze(-1))
        locs, scales, logits = (part.expand(*batch_shape, *part.shape[-2:]) for part in parts)
        return _Mixture(locs, scales, logits.squeeze(-1))

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        if len(sample_shape):
            return self.expand(torch.Size((*sample_shape, *self.batch_shape))).rsample()
        return super().rsample()


class _Flow(_Joint):
    """q(z) = Πₛ T_s # flow_s(· | φ_s, z before s): normalising flows by zuko, conditioned on a context vector φ.

    The flow acts on values in units of the prior's moments and starts near a standard Normal there. Its networks are
    weights that the guide owns, shared by all data; what is local is the context.

    Args:
        context: numbers in φ for each site.
        transforms: how many are composed.
        hidden: sizes of the hidden layers of their networks.
    """

    def __init__(
        self, sites: list[LocalSite], *, context: int = 16, transforms: int = 2, hidden: tuple[int, ...] = (32, 32)
    ) -> None:
        super().__init__(sites)
        require.count("context", context)
        require.count("transforms", transforms)
        hidden = require.sizes("hidden", hidden)
        self.phi = {
            **{f"{site.name}_loc": Local(site.mean.flatten()) for site in sites},
            **{f"{site.name}_scale": Local(site.std.flatten(), constraints.softplus_positive) for site in sites},
            **{f"{site.name}_context": Local(torch.zeros(context, dtype=self.mean.dtype)) for site in sites},
        }
        self.net = nn.ModuleList(
            self.flow(site.size, context + at.start, transforms, list(hidden)) for site, at in self.parts()
        )

    def flow(self, size: int, context: int, transforms: int, hidden: list[int]) -> nn.Module:
        """A lazy flow of zuko's over [size], given [context] numbers."""
        raise NotImplementedError

    def __call__(self, x: Tensor, phi: Phi) -> None:
        before: list[Tensor] = []
        with pyro.plate("data", len(x)):
            for (site, _), net in zip(self.parts(), self.net, strict=True):
                context = phi[f"{site.name}_context"]
                if before:
                    lead = torch.broadcast_shapes(context.shape[:-1], before[0].shape[:-1])
                    context = torch.cat([part.expand(*lead, part.shape[-1]) for part in (context, *before)], -1)
                # a transform that remembers its last value spares its own draw the way back through the flow
                loc, scale = phi[f"{site.name}_loc"], phi[f"{site.name}_scale"]
                units = dist.transforms.AffineTransform(loc, scale, event_dim=1, cache_size=1)
                z = _sample(site, _shaped(site, dist.TransformedDistribution(_Zuko(net, context), [units])))
                before.append(z)


class InverseAutoregressive(_Flow):
    """An inverse autoregressive flow (Kingma et al. 2016): draws in one pass, foreign values in as many as dims."""

    def flow(self, size: int, context: int, transforms: int, hidden: list[int]) -> nn.Module:
        import zuko

        return _inverted(zuko.flows.MAF(size, context, transforms=transforms, hidden_features=hidden))


class Spline(_Flow):
    """A neural spline flow (Durkan et al. 2019), autoregressive."""

    def flow(self, size: int, context: int, transforms: int, hidden: list[int]) -> nn.Module:
        import zuko

        return _inverted(zuko.flows.NSF(size, context, transforms=transforms, hidden_features=hidden))


def _inverted(flow: Any) -> nn.Module:
    """The flow with its direction turned: fast to draw from rather than to score foreign values."""
    import zuko

    return zuko.flows.Flow([step.inv for step in flow.transform.transforms], flow.base)


class _Zuko(dist.TorchDistribution):
    """A zuko flow at a context [..., C] as a Pyro distribution; the density of its last draw is remembered."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, flow: nn.Module, context: Tensor) -> None:
        self.flow, self.context = flow, context
        self.inner = flow(context)
        self.drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(context.shape[:-1], self.inner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        return _Zuko(self.flow, self.context.expand(*batch_shape, self.context.shape[-1]))

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        value, log_prob = self.inner.rsample_and_log_prob(sample_shape)
        self.drawn = (value, log_prob)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self.drawn is not None and self.drawn[0] is value:
            return self.drawn[1]
        return self.inner.log_prob(value)


class Ladder:
    """q(z) = Πₛ p(zˢ | z above) Normal(zˢ; loc_s, diag scale_s²) / norm: the model's priors, each corrected by φ.

    The top-down family of Sønderby, Raiko, Maaløe, Sønderby & Winther (2016), "Ladder Variational Autoencoders": in the
    model's own order, each latent's conditional prior is multiplied by a Gaussian of φ, which weighs the two by their
    precisions. The product of a Normal prior is Normal, that of a correlated one correlated, so that every KL term has
    a closed form; where each latent is seen through a Gaussian of diagonal information the true posterior is in it.

    The guide is the model's own program, left when its last latent is drawn: θ takes part in q.
    """

    #: θ moves q: an estimator that differentiates log q or the draws in φ alone does not go with it
    uses_model = True

    def __init__(self, sites: list[LocalSite], model: Model, x: Tensor) -> None:
        self.model = model
        self.names = [site.name for site in sites]
        self.phi = {}
        for site in sites:
            self.phi[f"{site.name}_loc"] = Local(site.mean)
            # at twice the prior's width q is near the prior, and yet a fifth of the way that loc goes is q's own
            self.phi[f"{site.name}_scale"] = Local(2 * site.std, constraints.softplus_positive)
        start = {name: local.start.expand(len(x), *local.start.shape) for name, local in self.phi.items()}
        with torch.no_grad(), seeded(0, device=x.device):
            self(x, start)  # refuses a prior that has no such product now rather than in training

    def __call__(self, x: Tensor, phi: Phi) -> None:
        def multiply(msg: Any, left: dict[str, None]) -> None:
            name = msg["name"]
            if name not in left:
                raise PpvaeError(
                    f"family 'ladder' needs the prior of {next(iter(left))!r}, and latent {name!r}, which the model "
                    "sums out, is drawn before it: draw it after, or choose another family"
                )
            try:
                msg["fn"] = _product(msg["fn"], phi[f"{name}_loc"], phi[f"{name}_scale"])
            except NotImplementedError as error:
                raise PpvaeError(
                    f"family 'ladder' multiplies Gaussian priors, and latent {name!r} is a {error}: choose another "
                    "family"
                ) from error

        tell(self.model, x, self.names, multiply)


def _product(prior: Any, loc: Tensor, scale: Tensor) -> Any:
    """The normalised product of a Gaussian prior [..., B, *event] and Normal(loc, diag scale²), each [B, *event].

    Raises:
        NotImplementedError: the prior is no Gaussian; with its name.
    """
    if isinstance(prior, torch.distributions.Independent):
        return dist.Independent(_product(prior.base_dist, loc, scale), prior.reinterpreted_batch_ndims)
    if isinstance(prior, torch.distributions.Normal):
        total = prior.scale.square() + scale.square()
        mean = prior.loc + prior.scale.square() / total * (loc - prior.loc)
        return dist.Normal(mean, prior.scale * scale * total.rsqrt())
    if isinstance(prior, torch.distributions.MultivariateNormal):
        tril = prior._unbroadcasted_scale_tril  # where data and particles share one covariance, it stays one
    elif isinstance(prior, torch.distributions.LowRankMultivariateNormal):
        tril = prior.scale_tril
    else:
        raise NotImplementedError(type(prior).__name__)
    # With Σ = L Lᵀ, D = diag scale² and I + Lᵀ D⁻¹ L = U Uᵀ, U upper triangular: (Σ⁻¹ + D⁻¹)⁻¹ = T Tᵀ, T = L U⁻ᵀ lower
    # triangular. Nothing near singular is inverted. U is a Cholesky factor with rows and columns reversed.
    weighed = tril / scale.unsqueeze(-1)
    inner = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device) + weighed.mT @ weighed
    # a row that ran off to NaN shows in its bound, where others are not disturbed
    upper = torch.linalg.cholesky_ex(inner.flip(-1, -2)).L.flip(-1, -2)
    factor = torch.linalg.solve_triangular(upper.mT, tril.expand_as(upper), upper=False, left=False).tril()
    gap = ((loc - prior.loc) / scale.square()).unsqueeze(-1)
    mean = prior.loc + (factor @ (factor.mT @ gap)).squeeze(-1)
    return dist.MultivariateNormal(mean, scale_tril=factor)


FAMILY_CLASSES: dict[FamilyName, type] = {
    "mean-field": MeanField,
    "full-covariance": FullCovariance,
    "low-rank": LowRank,
    "mixture": Mixture,
    "iaf": InverseAutoregressive,
    "spline": Spline,
    "ladder": Ladder,
}


def make_family(name: FamilyName, sites: list[LocalSite], options: dict[str, Any], model: Model, x: Tensor) -> Family:
    """The family of that name over the sites of a model of data x [B, *event].

    Raises:
        PpvaeError: an unknown name or option, a model without local latents, or with some that the family cannot take.
    """
    from ppvae.registry import check_options

    cls = FAMILY_CLASSES[require.one_of("family", name, FAMILIES)]  # type: ignore[index]
    check_options(name, cls, options, skip=("self", "sites", "model", "x"))
    if not sites:
        if name == "mean-field":
            return MeanField(sites)
        raise PpvaeError(f"family {name!r} needs a local latent, and the model has none: leave family out")
    if getattr(cls, "uses_model", False):
        return cls(sites, model, x, **options)
    return cls(sites, **options)
