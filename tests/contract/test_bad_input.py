"""Bad input from Python: one clear line that names the thing and the way out, and the disk as it was."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bad_places import enter, tree
from torch import Tensor, nn
from torch.distributions import constraints

import ppvae
from ppvae.comparison.run import Comparison
from ppvae.data.dataset import Data
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.runs.results import read_results


@pytest.fixture(autouse=True)
def here(bad_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(bad_place, monkeypatch)


@cache
def iris() -> Data:
    return ppvae.load_data("iris")


@cache
def ppca(inference: str = "amortized") -> ppvae.Fit:
    return ppvae.fit(ppvae.create("ppca", x_dim=4), iris(), inference, epochs=1, progress=False)


# An action, what the message must name, and the way out that it must offer


class OwnModel(ppvae.Model):
    """A pair to be spoilt."""

    def __init__(self, phi: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))
        self.phi = {"loc": ppvae.Local(torch.zeros(2))} if phi is None else phi

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 1.0).to_event(1))


class HalfPair(OwnModel):
    """Declares φ, and leaves the guide out."""

    guide = ppvae.Model.guide


class Unwritten(ppvae.Model):
    """Has no story."""


def fit(**changes: Any) -> ppvae.Fit:
    arguments: dict[str, Any] = {"model": ppvae.create("ppca", x_dim=4), "data": iris(), "epochs": 1}
    arguments |= {"progress": False, **changes}
    return ppvae.fit(**arguments)


def compare(**changes: Any) -> Comparison:
    arguments: dict[str, Any] = {"models": "ppca", "data": iris(), "epochs": 1, "progress": False}
    return ppvae.compare(**{**arguments, **changes})


def create(name: Any) -> ppvae.Model:
    return ppvae.create(name)


NAN, INF = float("nan"), float("inf")
X = torch.ones(3, 4)

ACTIONS: dict[str, tuple[Callable[[], object], str, str]] = {
    # fit
    "an unknown model by name": (lambda: fit(model="pcpa"), "'pcpa'", "did you mean 'ppca'"),
    "a class for a model": (lambda: fit(model=type(ppca().model)), "got type", "the name of one"),
    "a module that is no Model": (lambda: fit(model=nn.Linear(4, 4)), "got Linear", "the name of one"),
    "no model": (lambda: fit(model=None), "got NoneType", "the name of one"),
    "an array as data": (lambda: fit(data=np.zeros((9, 4))), "not ndarray", "ppvae.Data("),
    "a tensor as data": (lambda: fit(data=X), "not Tensor", "ppvae.Data("),
    "no data": (lambda: fit(data=None), "not NoneType", "ppvae.Data("),
    "unknown data": (lambda: fit(data="Iris"), "'Iris'", "did you mean 'iris'"),
    "unknown inference": (lambda: fit(inference="Amortized"), "'Amortized'", "did you mean 'amortized'"),
    "inference as a list": (lambda: fit(inference=["exact"]), "['exact']", "known: amortized"),
    "unknown objective": (lambda: fit(objective="elbow"), "objective 'elbow'", "did you mean 'elbo'"),
    "unknown kl": (lambda: fit(kl="exact"), "kl 'exact'", "known: analytic, mc"),
    "precision as a number": (lambda: fit(precision=64), "precision 64", "64-true"),
    "unknown accelerator": (lambda: fit(accelerator="abacus"), "'abacus'", "cpu"),
    "lr in words": (lambda: fit(lr="0.1"), "lr", "finite number > 0, got '0.1'"),
    "lr that is no number": (lambda: fit(lr=NAN), "lr", "finite number > 0, got nan"),
    "infinite lr": (lambda: fit(lr=INF), "lr", "finite number > 0, got inf"),
    "lr beyond floats": (lambda: fit(lr=10**400), "lr", "finite number > 0, got 1000"),
    "lr as bool": (lambda: fit(lr=True), "lr", "finite number > 0, got True"),
    "lr as a tensor": (lambda: fit(lr=torch.tensor(0.1)), "lr", "finite number > 0, got tensor"),
    "negative lr beside a good lr_encoder": (lambda: fit(lr=-1, lr_encoder=0.1), "lr", "finite number > 0, got -1"),
    "zero lr_encoder": (lambda: fit(lr_encoder=0), "lr_encoder", "finite number > 0, got 0"),
    "negative lr_phi": (lambda: fit(inference="per-datapoint", lr_phi=-1), "lr_phi", "finite number > 0, got -1"),
    "lr_phi without rows": (lambda: fit(inference="amortized", lr_phi=0.1), "lr_phi", "remove lr_phi"),
    "batch_size as float": (lambda: fit(batch_size=10.0), "batch_size", "whole number ≥ 1, got 10.0"),
    "batch_size zero": (lambda: fit(batch_size=0), "batch_size", "whole number ≥ 1, got 0"),
    "epochs as bool": (lambda: fit(epochs=True), "epochs", "whole number ≥ 1, got True"),
    "no epochs": (lambda: fit(epochs=None), "epochs", "whole number ≥ 1, got None"),
    "infinite epochs": (lambda: fit(epochs=INF), "epochs", "whole number ≥ 1, got inf"),
    "steps as float": (lambda: fit(steps=1e3), "steps", "whole number ≥ 1, got 1000.0"),
    "seconds not a number": (lambda: fit(seconds=NAN), "seconds", "finite number > 0, got nan"),
    "negative seconds": (lambda: fit(seconds=-1), "seconds", "finite number > 0, got -1"),
    "patience zero": (lambda: fit(patience=0), "patience", "whole number ≥ 1, got 0"),
    "patience as bool": (lambda: fit(patience=False), "patience", "whole number ≥ 1, got False"),
    "eval_every as float": (lambda: fit(eval_every=1.5), "eval_every", "whole number ≥ 1, got 1.5"),
    "num_particles zero": (lambda: fit(num_particles=0), "num_particles", "whole number ≥ 1, got 0"),
    "no seed": (lambda: fit(seed=None), "seed", "whole number ≥ 0, got None"),
    "seed as bool": (lambda: fit(seed=True), "seed", "whole number ≥ 0, got True"),
    "inference_options as a list": (lambda: fit(inference_options=["encoder"]), "inference_options", "mapping"),
    "inference_options as a number": (lambda: fit(inference_options=5), "inference_options", "mapping"),
    "unknown option of a strategy": (
        lambda: fit(inference="per-datapoint", inference_options={"inner_stepz": 1}),
        "'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    "option of another strategy": (
        lambda: fit(inference="exact", inference_options={"inner_steps": 1}),
        "exact: unknown option 'inner_steps'",
        "known: none",
    ),
    "encoder that is no module": (lambda: fit(inference_options={"encoder": len}), "encoder", "torch.nn.Module"),
    "encoder of the wrong output": (
        lambda: fit(inference_options={"encoder": nn.Flatten(0)}),
        "the encoder maps 2 datapoints to (8,)",
        "[B, features]",
    ),
    "encoder of the wrong input": (
        lambda: fit(inference_options={"encoder": nn.Linear(5, 3)}),
        "encoder",
        "cannot be multiplied",
    ),
    "more components than data": (
        lambda: fit(model=ppvae.create("gmm", x_dim=4, num_components=1000)),
        "1000 components",
        "at least as many data, got 106",
    ),
    "x_dim of other data": (lambda: fit(model=ppvae.create("ppca", x_dim=5)), "PPCA", "start(x)"),
    "a likelihood of bits on real data": (
        lambda: fit(model=ppvae.create("vae", x_dim=4)),
        "VAE",
        "support (Boolean())",
    ),
    "dynamic data and a row a datum": (
        lambda: fit(model=ppvae.create("vae", x_dim=64), data=dynamic(), inference="per-datapoint"),
        "per-datapoint",
        'treatment="static"',
    ),
    "phi that is no Local": (lambda: fit(model=OwnModel({"loc": torch.zeros(2)})), "phi['loc']", "ppvae.Local"),
    "phi that is no mapping": (lambda: fit(model=OwnModel([ppvae.Local(torch.zeros(2))])), "OwnModel", "list"),
    "phi without the guide's entry": (lambda: fit(model=OwnModel({})), "the guide reads phi['loc']", "declares none"),
    "phi without a guide": (lambda: fit(model=HalfPair()), "HalfPair declares phi", "write guide(x, phi)"),
    "a model without a story": (lambda: fit(model=Unwritten()), "Unwritten has no model(self, x)", "write"),
    # the zoo
    "unknown model": (lambda: ppvae.create("vea"), "'vea'", "did you mean 'vae'"),
    "no name": (lambda: create(None), "model None", "known: dlgm"),
    "no x_dim": (lambda: ppvae.create("vae"), "vae needs the option", "'x_dim'"),
    "unknown option": (lambda: ppvae.create("vae", x_dim=4, latnet_dim=3), "'latnet_dim'", "'latent_dim'"),
    "x_dim in words": (lambda: ppvae.create("vae", x_dim="4"), "x_dim", "whole number ≥ 1, got '4'"),
    "x_dim of a shape": (lambda: ppvae.create("vae", x_dim=(4,)), "x_dim", "whole number ≥ 1, got (4,)"),
    "latent_dim as bool": (lambda: ppvae.create("vae", x_dim=4, latent_dim=True), "latent_dim", "got True"),
    "hidden with a float": (lambda: ppvae.create("vae", x_dim=4, hidden=[9, 2.5]), "hidden", "got [9, 2.5]"),
    "hidden in words": (lambda: ppvae.create("vae", x_dim=4, hidden="ab"), "hidden", "got 'ab'"),
    "no hidden": (lambda: ppvae.create("vae", x_dim=4, hidden=None), "hidden", "got None"),
    "min_scale zero": (lambda: ppvae.create("vae", x_dim=4, likelihood="gaussian", min_scale=0), "min_scale", "> 0"),
    "latent_dims empty": (lambda: ppvae.create("dlgm", x_dim=4, latent_dims=()), "latent_dims", "got []"),
    "variance_floor zero": (lambda: ppvae.create("gmm", x_dim=4, variance_floor=0), "variance_floor", "> 0, got 0"),
    "variance_floor not a number": (lambda: ppvae.create("gmm", x_dim=4, variance_floor=NAN), "variance_floor", "nan"),
    "num_components zero": (lambda: ppvae.create("gmm", x_dim=4, num_components=0), "num_components", "≥ 1, got 0"),
    "unknown assignment": (lambda: ppvae.create("gmm", x_dim=4, assignment="sum"), "'sum'", "did you mean 'summed'"),
    "a model too big": (lambda: ppvae.create("ppca", x_dim=10**15), "ppca cannot be made", "check its options"),
    "registering what is no model": (lambda: ppvae.register("mine")(int), "int", "ppvae.Model"),
    "registering a name taken": (lambda: ppvae.register("vae")(OwnModel), "'vae' is taken", "another name"),
    # Local
    "Local of integers": (lambda: ppvae.Local(torch.zeros(2, dtype=torch.int64)), "Local", "floating-point"),
    "Local of a large integer tensor": (lambda: ppvae.Local(torch.zeros(99, 99).int()), "Local", "floating-point"),
    "Local of a number": (lambda: local(0.0), "Local", "floating-point tensor, got 0.0"),
    "Local of a list": (lambda: local([0.0]), "Local", "floating-point tensor, got [0.0]"),
    "Local outside its support": (lambda: local(-torch.ones(2), constraints.positive), "Local", "outside its support"),
    "large Local outside": (lambda: local(-torch.ones(99, 99), constraints.positive), "Local", "outside its support"),
    "Local that is no number": (lambda: local(torch.tensor([NAN])), "Local", "outside its support"),
    "Local of a named support": (lambda: local(torch.ones(2), "positive"), "support", "constraints"),
    # posteriors and estimates
    "x of another size": (lambda: ppca().posterior(torch.ones(3, 5)), "[B, 4]", "got (3, 5)"),
    "one datum without its batch": (lambda: ppca().posterior(torch.ones(4)), "[B, 4]", "got (4,)"),
    "x a number": (lambda: ppca().posterior(torch.ones(())), "[B, 4]", "got ()"),
    "x an array": (lambda: posterior(x=np.ones((3, 4))), "[B, 4]", "got ndarray"),
    "x a list": (lambda: posterior(x=[[1.0] * 4]), "[B, 4]", "got list"),
    "x a data set": (lambda: posterior(x=iris()), "[B, 4]", "got Data"),
    "no x": (lambda: ppca().posterior(torch.ones(0, 4)), "[B, 4]", "B ≥ 1, got (0, 4)"),
    "x with a hole": (lambda: ppca().posterior(X * NAN), "NaN", "drop or impute"),
    "infinite x": (lambda: ppca().posterior(X * INF), "infinite", "drop or impute"),
    "complex x": (lambda: ppca().posterior(X.to(torch.complex64)), "complex64", "real numbers"),
    "index without rows": (lambda: ppca().posterior(X, torch.arange(3)), "Amortized keeps no rows", "without index"),
    "index too short": (lambda: posterior([0]), "index must hold 3", "got shape (1,)"),
    "index of floats": (lambda: posterior([0.0, 1.0, 2.0]), "index must hold 3", "whole numbers"),
    "index as a mask": (lambda: posterior([True, False, True]), "index must hold 3", "whole numbers"),
    "index in a column": (lambda: posterior([[0], [1], [2]]), "index must hold 3", "got shape (3, 1)"),
    "index beyond the end": (lambda: posterior([0, 1, 106]), "0 … 105", "training set"),
    "negative index": (lambda: posterior([0, 1, -1]), "0 … 105", "training set"),
    "index in words": (lambda: posterior("first"), "index must hold 3", "whole numbers"),
    "log_marginal of a model": (lambda: log_marginal(pair=ppca().model), "PPCA", "ppvae.fit"),
    "log_marginal of a path": (lambda: log_marginal(pair="runs/mine"), "str", "ppvae.fit"),
    "log_marginal of another size": (lambda: log_marginal(x=torch.ones(2, 3)), "[B, 4]", "got (2, 3)"),
    "log_marginal of holes": (lambda: log_marginal(x=X * NAN), "NaN", "drop or impute"),
    "log_marginal of no bits": (lambda: bits(torch.full((2, 64), 0.5)), "support (Boolean())", "VAE"),
    "unknown method": (lambda: log_marginal(method="aiss"), "method 'aiss'", "did you mean 'ais'"),
    "exact where there is none": (lambda: bits(torch.ones(2, 64), method="exact"), "VAE has no exact", "importance"),
    "num_samples zero": (lambda: log_marginal(num_samples=0), "num_samples", "≥ 1, got 0"),
    "num_samples as float": (lambda: log_marginal(num_samples=1e3), "num_samples", "≥ 1, got 1000.0"),
    "chunk_size zero": (lambda: log_marginal(chunk_size=0), "chunk_size", "≥ 1, got 0"),
    "negative seed": (lambda: log_marginal(seed=-1), "seed", "≥ 0, got -1"),
    "index to log_marginal out of range": (
        lambda: log_marginal(pair=ppca("per-datapoint"), index=torch.tensor([0, 1, 999])),
        "0 … 105",
        "training set",
    ),
    "a summary of what there is not": (
        lambda: ppvae.summarise(log_marginal(num_samples=2), "elb"),
        "'elb'",
        "did you mean 'elbo'",
    ),
    "particles zero": (lambda: densities(num_particles=0), "num_particles", "≥ 1, got 0"),
    "unknown gradient": (lambda: densities(grad="half"), "'half'", "full, path, score"),
    # check and load
    "check of a name": (lambda: check(model="vae"), "ppvae.Model", "got str"),
    "check without x": (lambda: check(x=None), "[B, *event]", "B ≥ 1"),
    "check of holes": (lambda: check(x=X * NAN), "NaN", "drop or impute"),
    "load from nowhere": (lambda: ppvae.load("nowhere"), "nowhere is not a saved fit", "config.yaml"),
    "load of a damaged fit": (lambda: ppvae.load("short-config"), "short-config", "unknown entry of config.yaml 'lk'"),
    "save where something is": (lambda: ppca().save("full"), "full exists", "another run directory"),
    "save over a file": (lambda: ppca().save("my.txt"), "my.txt exists", "another run directory"),
    "save inside a file": (lambda: ppca().save("my.txt/fit"), "my.txt/fit", "folder"),
    "results from nowhere": (lambda: read_results("nowhere.json"), "nowhere.json", "cannot read"),
    # compare
    "compare unknown models": (lambda: compare(models=["vea"]), "'vea'", "did you mean 'vae'"),
    "compare numbers": (lambda: compare(models=5), "models", "names, got 5"),
    "compare a model itself": (lambda: compare(models=[ppca().model]), "got PPCA()", "names or classes"),
    "compare nothing": (lambda: compare(models=[]), "models", "at least one"),
    "compare twice": (lambda: compare(models=["ppca", "ppca"]), "'ppca' twice", "once"),
    "compare under nothing": (lambda: compare(inference=[]), "inference", "at least one"),
    "compare under numbers": (lambda: compare(inference=5), "inference", "a list, each a word, got 5"),
    "compare without seeds": (lambda: compare(seeds=[]), "seeds", "at least one"),
    "compare seeds twice": (lambda: compare(seeds=[3, 3]), "3 twice", "once"),
    "compare with a seed in words": (lambda: compare(seeds="01"), "seeds", "a list, each a whole number, got '01'"),
    "compare with None for a seed": (lambda: compare(seeds=[None]), "seed", "≥ 0, got None"),
    "compare with model options loose": (lambda: compare(latent_dim=3), "'latent_dim'", "model_options"),
    "compare with an option misspelt": (lambda: compare(epoch=3), "'epoch'", "did you mean 'epochs'"),
    "compare with options that are none": (lambda: compare(model_options=5), "model_options", "mapping"),
    "compare with a list of options": (lambda: compare(inference_options=["exact"]), "inference_options", "mapping"),
    "compare with a number for options": (
        lambda: compare(inference_options={"exact": 5}),
        "inference_options of exact",
        "mapping",
    ),
    "compare num_test as bool": (lambda: compare(num_test=True), "num_test", "≥ 1, got True"),
    "compare num_samples as float": (lambda: compare(num_samples=0.5), "num_samples", "≥ 1, got 0.5"),
    "compare on more than there is": (lambda: compare(num_train=9999), "num_train", "106 training rows"),
    "compare into a full folder": (lambda: compare(run_dir="full"), "full exists", "choose another"),
    "compare into a number": (lambda: compare(run_dir=5), "5", "run directory"),
    "compare on a tensor": (lambda: compare(data=X), "not Tensor", "ppvae.Data("),
    # data built by hand
    "data of integers": (lambda: by_hand(train=X.long()), "train", "float()"),
    "data of arrays": (lambda: by_hand(test=np.ones((3, 4))), "test", "floating tensor"),
    "data in one row": (lambda: by_hand(train=torch.ones(4)), "train", "reshape(-1, 1)"),
    "data with a hole": (lambda: by_hand(valid=X * NAN), "valid", "drop those rows"),
    "data without rows": (lambda: by_hand(test=X[:0]), "test", "at least one row"),
    "data of two widths": (lambda: by_hand(test=torch.ones(3, 5)), "test", "make rows agree"),
    "data of another likelihood": (lambda: by_hand(likelihood="poisson"), "'poisson'", "bernoulli, gaussian"),
    "data of another treatment": (lambda: by_hand(treatment="binarised"), "'binarised'", "binary"),
    "bits that are none": (lambda: by_hand(X / 3, likelihood="bernoulli", treatment="binary"), "0 and 1", "gaussian"),
    "a treatment of nothing": (lambda: ppvae.load_data("iris", treatment="Real"), "'Real'", "did you mean 'real'"),
    "data by number": (lambda: load_data(7), "not int", "ppvae.Data("),
}


def dynamic() -> Data:
    return ppvae.load_data("digits", treatment="dynamic")


def local(start: Any, support: Any = constraints.real) -> ppvae.Local:
    return ppvae.Local(start, support)


def posterior(index: Any = None, x: Any = X) -> ppvae.Posterior:
    return ppca("amortized" if index is None else "per-datapoint").posterior(x, index)


def log_marginal(**changes: Any) -> Any:
    return ppvae.log_marginal(**({"pair": ppca(), "x": X, "num_samples": 2} | changes))


def bits(x: Tensor, **options: Any) -> Any:
    return ppvae.log_marginal(ppvae.load("vae"), x, num_samples=2, **options)


def densities(**options: Any) -> Densities:
    return ppvae.log_densities(ppca().model, ppca().posterior(X), X, **options)


def check(**changes: Any) -> None:
    ppvae.check(**({"model": ppca().model, "x": X} | changes))


def by_hand(train: Tensor = X, **changes: Any) -> Data:
    parts: dict[str, Any] = {"name": "mine", "train": train, "valid": train, "test": train}
    parts |= {"likelihood": "gaussian", "treatment": "real", **changes}
    return Data(**parts)


def load_data(name: Any) -> Data:
    return ppvae.load_data(name)


@pytest.mark.parametrize("action", ACTIONS)
def test_python(action: str) -> None:
    run, thing, way_out = ACTIONS[action]
    before = tree()
    with pytest.raises(ppvae.PpvaeError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert thing in message
    assert way_out in message
    assert tree() == before
