"""ppvae: latent-variable models as Pyro model/guide pairs, under every inference strategy.

Every name is loaded when it is first used, so that `import ppvae` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `_HOMES` is the same list for Python, and a test compares the two
    from ppvae import inference, models, plots
    from ppvae.catalogue import available, register
    from ppvae.comparison.evaluation import evaluate
    from ppvae.comparison.run import compare
    from ppvae.data.batch import Batch
    from ppvae.data.dataset import Data
    from ppvae.data.loading import load_data
    from ppvae.diagnostics.bidirectional import bdmc
    from ppvae.diagnostics.calibration import sbc
    from ppvae.diagnostics.inference_gap import gaps
    from ppvae.diagnostics.predictive import posterior_predictive_check
    from ppvae.diagnostics.usage import latent_usage
    from ppvae.diagnostics.variance import gradient_variance
    from ppvae.errors import PpvaeError
    from ppvae.evidence.marginal import log_marginal, summarise
    from ppvae.pair.checks import check
    from ppvae.pair.densities import log_densities
    from ppvae.pair.local import Local
    from ppvae.pair.model import Model
    from ppvae.pair.pair import Pair
    from ppvae.pair.posterior import Posterior
    from ppvae.pair.zoo import create, list_models
    from ppvae.tasks.datatree import to_datatree
    from ppvae.tasks.reconstruction import reconstruct
    from ppvae.tasks.sampling import sample
    from ppvae.training.fitted import Fit
    from ppvae.training.fitting import fit
    from ppvae.training.loading import load
    from ppvae.training.pyro_pair import as_pyro
    from ppvae.training.settings import Settings
    from ppvae.variational.strategy import Strategy, list_inference

    __version__: str

#: module → the public names that it holds; "" for modules that are public themselves
_HOMES = {
    "": ("inference", "models", "plots"),
    "catalogue": ("available", "register"),
    "comparison.evaluation": ("evaluate",),
    "comparison.run": ("compare",),
    "data.batch": ("Batch",),
    "data.dataset": ("Data",),
    "data.loading": ("load_data",),
    "diagnostics.bidirectional": ("bdmc",),
    "diagnostics.calibration": ("sbc",),
    "diagnostics.inference_gap": ("gaps",),
    "diagnostics.predictive": ("posterior_predictive_check",),
    "diagnostics.usage": ("latent_usage",),
    "diagnostics.variance": ("gradient_variance",),
    "errors": ("PpvaeError",),
    "evidence.marginal": ("log_marginal", "summarise"),
    "pair.checks": ("check",),
    "pair.densities": ("log_densities",),
    "pair.local": ("Local",),
    "pair.model": ("Model",),
    "pair.pair": ("Pair",),
    "pair.posterior": ("Posterior",),
    "pair.zoo": ("create", "list_models"),
    "tasks.datatree": ("to_datatree",),
    "tasks.reconstruction": ("reconstruct",),
    "tasks.sampling": ("sample",),
    "training.fitted": ("Fit",),
    "training.fitting": ("fit",),
    "training.loading": ("load",),
    "training.pyro_pair": ("as_pyro",),
    "training.settings": ("Settings",),
    "variational.strategy": ("Strategy", "list_inference"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "Data",
    "Fit",
    "Local",
    "Model",
    "Pair",
    "Posterior",
    "PpvaeError",
    "Settings",
    "Strategy",
    "as_pyro",
    "available",
    "bdmc",
    "check",
    "compare",
    "create",
    "evaluate",
    "fit",
    "gaps",
    "gradient_variance",
    "inference",
    "latent_usage",
    "list_inference",
    "list_models",
    "load",
    "load_data",
    "log_densities",
    "log_marginal",
    "models",
    "plots",
    "posterior_predictive_check",
    "reconstruct",
    "register",
    "sample",
    "sbc",
    "summarise",
    "to_datatree",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("ppvae")
    elif name in _HOME_OF:
        home = _HOME_OF[name]
        value = (
            getattr(importlib.import_module(f"ppvae.{home}"), name)
            if home
            else importlib.import_module(f"ppvae.{name}")
        )
    else:
        raise AttributeError(f"module 'ppvae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
