"""ppvae: latent-variable models as Pyro model/guide pairs, under every inference strategy."""

from importlib.metadata import version

from ppvae import require
from ppvae.check import check
from ppvae.data import Data, list_data, load_data
from ppvae.densities import Densities, log_densities
from ppvae.errors import CheckError, Interrupted, NonFiniteError, PpvaeError
from ppvae.family import prepare
from ppvae.fitted import Fit
from ppvae.fitting import fit
from ppvae.local import Local, Phi
from ppvae.marginal import log_marginal, summarise
from ppvae.model import Model
from ppvae.objectives import elbo, iwae
from ppvae.gradients import Estimator
from ppvae.posterior import Posterior
from ppvae.pyro_pair import as_pyro
from ppvae.compare import Comparison, compare
from ppvae.registry import create, list_inference, list_models, register
from ppvae.results import Row
from ppvae.sampling import Samples, reconstruct, sample
from ppvae.saving import load
from ppvae.variance import gradient_variance
from ppvae.strategy import Batch, Bound, Strategy
from ppvae import inference, models  # the zoo comes last: its files use the names above

__version__ = version("ppvae")

__all__ = [
    "Batch",
    "Bound",
    "CheckError",
    "Comparison",
    "Data",
    "Densities",
    "Estimator",
    "Fit",
    "Interrupted",
    "Local",
    "Model",
    "NonFiniteError",
    "Phi",
    "Posterior",
    "PpvaeError",
    "Row",
    "Samples",
    "Strategy",
    "as_pyro",
    "check",
    "compare",
    "create",
    "elbo",
    "fit",
    "gradient_variance",
    "inference",
    "iwae",
    "list_data",
    "list_inference",
    "list_models",
    "load",
    "load_data",
    "log_densities",
    "log_marginal",
    "models",
    "prepare",
    "reconstruct",
    "register",
    "require",
    "sample",
    "summarise",
]
