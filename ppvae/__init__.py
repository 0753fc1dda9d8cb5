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
from ppvae.bdmc import bdmc
from ppvae.gaps import gaps
from ppvae.calibration import sbc
from ppvae.predictive import posterior_predictive_check
from ppvae.latent_usage import latent_usage
from ppvae.exchange import to_datatree
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
    "bdmc",
    "check",
    "compare",
    "create",
    "elbo",
    "fit",
    "gaps",
    "gradient_variance",
    "inference",
    "iwae",
    "latent_usage",
    "list_data",
    "list_inference",
    "list_models",
    "load",
    "load_data",
    "log_densities",
    "log_marginal",
    "models",
    "posterior_predictive_check",
    "prepare",
    "reconstruct",
    "register",
    "require",
    "sample",
    "sbc",
    "summarise",
    "to_datatree",
]
