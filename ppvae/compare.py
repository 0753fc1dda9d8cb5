"""The main job: models × strategies × seeds on the same data, and what each costs and gives."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from ppvae import require
from ppvae.check import check
from ppvae.data import Data, load_data
from ppvae.errors import PpvaeError
from ppvae.family import prepare
from ppvae.fitted import Fit
from ppvae.fitting import fit, start
from ppvae.marginal import log_marginal, summarise
from ppvae.model import Model, overrides
from ppvae.progress import Progress
from ppvae.randomness import seeded
from ppvae.registry import (
    build,
    check_options,
    list_inference,
    main_job,
    model_class,
    option_names,
    strategy_class,
)
from ppvae.sites import sample_sites

SCHEMA = 1
#: new datapoints behind `infer_seconds_per_1000`
_TIMED = 1000


@dataclass(frozen=True)
class Row:
    """One fit of `results.json`. Bounds in nats/datum; `*_mc_se` is sampling error given the data, `*_data_se`
    the spread over data; None where not computed or meaningless.
    """

    model: str
    inference: str
    seed: int
    data: str
    treatment: str
    split: str
    num_data: int
    elbo: float | None
    elbo_mc_se: float | None
    iwae_bound: float | None
    log_marginal: float | None
    log_marginal_mc_se: float | None
    log_marginal_data_se: float | None
    log_marginal_method: str
    num_samples: int
    ess_median: float | None
    ess_min: float | None
    khat_bad_fraction: float | None
    approximation_gap: float | None
    amortization_gap: float | None
    train_seconds: float
    infer_seconds_per_1000: float
    num_parameters: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: its rows, and the directory that holds results.json."""

    rows: list[Row]
    run_dir: Path | None


@dataclass(frozen=True)
class Job:
    """One row to be made.

    `kind` is the class behind the name `model`, found once: a file edited meanwhile must not change later rows.
    """

    model: str
    kind: type[Model]
    inference: str
    seed: int
    data: Data
    model_options: Mapping[str, Any]
    fit_options: Mapping[str, Any]


def compare(
    models: Sequence[str] | str | None = None,
    inference: Sequence[str] | str | None = None,
    data: str | os.PathLike | Data | None = None,
    seeds: Sequence[int] | int = (0, 1, 2),
    *,
    treatment: str | None = None,
    root: str | os.PathLike | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    num_samples: int = 1000,
    model_options: Mapping[str, Any] | None = None,
    inference_options: Mapping[str, Any] | None = None,
    run_dir: str | os.PathLike | None = None,
    progress: bool | None = None,
    **fit_options: Any,
) -> Comparison:
    """Fit every model under every strategy that applies, and judge each on the same test data.

    Args:
        models: zoo names or path/to/file.py:ClassName, several or one; where None, those of the main job.
        inference: strategies, several or one; where None, each that the model allows.
        data: a name, a file or a `Data`; where None, each model's own of the main job, else digits.
        seeds: of initialisation, training and evaluation.
        treatment, root, num_train: as `load_data` has them.
        num_test: only the first so many test data.
        num_samples: importance samples a datum.
        model_options: constructor arguments, for every model.
        inference_options: {strategy: its options}.
        run_dir: a new directory for results.json, made with the first row and written anew after each.
        progress: show progress bars; None only on a terminal.
        fit_options: of `fit`: max_epochs, max_seconds, lr, batch_size, …

    Raises:
        PpvaeError: before anything runs, for a name, option or data that does not fit.
    """
    jobs = plan(models, inference, data, seeds, treatment=treatment, root=root, num_train=num_train,
                model_options=model_options, inference_options=inference_options, fit_options=fit_options)  # fmt: skip
    require.count("num_samples", num_samples)
    if num_test is not None:
        require.count("num_test", num_test)
    where = None if run_dir is None else free_directory(run_dir)
    rows: list[Row] = []
    started = time.perf_counter()
    with Progress(progress, len(jobs), "compare") as bar:
        for done, job in enumerate(jobs):
            bar.update(done, what=f"{Path(job.model).name} · {job.inference} · seed {job.seed}")
            rows.append(run(job, num_samples, num_test))
            if where is not None:
                where.mkdir(parents=True, exist_ok=True)  # only now: the first fit refuses what no plan can see
                write_results(where / "results.json", rows, time.perf_counter() - started)
    return Comparison(rows, where)


def plan(
    models: Sequence[str] | str | None,
    inference: Sequence[str] | str | None,
    data: str | os.PathLike | Data | None,
    seeds: Sequence[int] | int,
    *,
    treatment: str | None,
    root: str | os.PathLike | None,
    num_train: int | None,
    model_options: Mapping[str, Any] | None,
    inference_options: Mapping[str, Any] | None,
    fit_options: Mapping[str, Any],
) -> list[Job]:
    """Every row to be made, with all that can be refused beforehand refused here."""
    names = _names("models", models, list(main_job()))
    strategies = _names("inference", inference, list_inference())
    seeds = [require.count("seed", seed, least=0) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])]
    _each_once("seeds", seeds)
    known = option_names_of_fit()
    for option in fit_options:
        require.one_of("option", option, known, ". Options of a model go into model_options")
    own = require.mapping("inference_options", inference_options)
    own = {name: require.mapping(f"inference_options of {name}", options) for name, options in own.items()}
    for name in [*strategies, *own]:
        strategy_class(name)
    loaded: dict[str, Data] = {}
    jobs = []
    for name in names:
        preset = dict(main_job().get(name, {}))
        own_data = preset.pop("data", "digits")
        source = own_data if data is None else data
        key = repr(source)
        if key not in loaded:
            loaded[key] = load_data(source, treatment=treatment, root=root, num_train=num_train)
        kind = model_class(name)
        options = fill(kind, loaded[key], require.mapping("model_options", model_options))
        allowed = _allowed(name, kind, options, loaded[key], strategies, own, explicit=inference is not None)
        for strategy in allowed:
            settings = {**preset, **fit_options, "inference_options": own.get(strategy, {})}
            if "lr" not in option_names(strategy_class(strategy)):
                settings.pop("lr_phi", None)  # is for rows, and this strategy keeps none
            jobs += [Job(name, kind, strategy, seed, loaded[key], options, settings) for seed in seeds]
    if unused := own.keys() - {job.inference for job in jobs}:
        raise PpvaeError(f"inference_options has {sorted(unused)[0]!r}, which is not among the strategies compared")
    if fit_options.get("lr_phi") is not None and not any("lr_phi" in job.fit_options for job in jobs):
        raise PpvaeError("lr_phi is for rows of their own, which no strategy compared here keeps: leave it out")
    return jobs


def option_names_of_fit() -> list[str]:
    """The arguments of `fit` that `compare` hands on."""
    import inspect

    taken = {"model", "data", "inference", "inference_options", "seed", "progress"}
    return [name for name in inspect.signature(fit).parameters if name not in taken]


def fill(kind: type[Model], data: Data, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model, with x_dim and likelihood taken from the data where it has them and none is given."""
    known = option_names(kind)
    out = dict(options)
    size = math.prod(data.event_shape)
    if "x_dim" in known and out.setdefault("x_dim", size) != size:
        raise PpvaeError(
            f"x_dim is {require.show(out['x_dim'])}, and a datum of {data.name} has {size} numbers: leave x_dim out"
        )
    if "likelihood" in known:
        out.setdefault("likelihood", data.likelihood)
    return out


def _names(what: str, given: Sequence[str] | str | None, default: list[str]) -> list[str]:
    if given is None:
        return default
    if not isinstance(given, Iterable):
        raise PpvaeError(f"{what} must be names, got {require.show(given)}")
    names = [given] if isinstance(given, str) else list(given)
    _each_once(what, names)
    return names


def _each_once(what: str, given: list[Any]) -> None:
    if not given:
        raise PpvaeError(f"{what} is empty: name at least one")
    if repeated := [one for at, one in enumerate(given) if one in given[:at]]:
        raise PpvaeError(f"{what} names {require.show(repeated[0])} twice: name each once")


def _allowed(
    name: str,
    kind: type[Model],
    options: Mapping[str, Any],
    data: Data,
    strategies: list[str],
    own: Mapping[str, Mapping[str, Any]],
    *,
    explicit: bool,
) -> list[str]:
    """The strategies that go with the model and the data; one asked for by name that does not is an error."""
    with seeded(0, device=data.train.device):
        model = build(name, kind, options)
        x = start(model, data)
    _refuse_unsound(name, model, data, x)
    prepare(model, x)
    refusals = {s: why for s in strategies if (why := _refusal(s, model, data, x, own.get(s, {})))}
    for strategy, why in refusals.items():
        if explicit or strategy in own or len(refusals) == len(strategies):
            raise PpvaeError(why)
    return [s for s in strategies if s not in refusals]


def _refuse_unsound(name: str, model: Model, data: Data, x: Tensor) -> None:
    """A pair that `check` refuses; a density over real x, which cannot be ranked beside probabilities of bits."""
    x = data.draw(x[:7])
    check(model, x)
    if data.likelihood != "bernoulli":
        return
    with torch.no_grad(), seeded(0, device=x.device):
        sites = sample_sites(poutine.trace(model).get_trace(x))
    for site, message in sites.items():
        if message["is_observed"] and not message["fn"].support.is_discrete:
            raise PpvaeError(
                f"{name} gives site {site!r} a density over real numbers, and {data.name} ({data.treatment}) is "
                'binary: use a binary likelihood, or treatment="real"'
            )


def _refusal(strategy: str, model: Model, data: Data, x: Tensor, options: Mapping[str, Any]) -> str | None:
    """Why the strategy does not go with the model, the data or its options."""
    cls = strategy_class(strategy)
    if data.dynamic and cls.refuses_dynamic:
        return f"{strategy} keeps a row for each fixed datapoint: use a treatment other than dynamic"
    try:
        check_options(strategy, cls, options, skip=("self", "model", "x"))
        with seeded(0, device=x.device):
            cls(model, x[:2], **options).to(x.dtype)
    except PpvaeError as error:
        return str(error)
    return None


def run(job: Job, num_samples: int, num_test: int | None = None) -> Row:
    """Fit one pair and judge it on the test data."""
    with seeded(job.seed, device=torch.device("cpu")):
        model = build(job.model, job.kind, job.model_options)
    fitted = fit(model, job.data, job.inference, seed=job.seed, progress=False, **job.fit_options)
    return evaluate(fitted, job.data, name=job.model, num_samples=num_samples, num_test=num_test, seed=job.seed)[0]


def evaluate(
    fitted: Fit, data: Data, *, name: str, num_samples: int = 1000, num_test: int | None = None, seed: int = 0,
    split: str = "test", progress: bool | None = False,
) -> tuple[Row, xr.Dataset]:  # fmt: skip
    """One row of results, and the estimates per datum behind it."""
    x = observations(data, split, num_test)
    bound = log_marginal(fitted, x, num_samples=num_samples, seed=seed, progress=progress)
    exact = overrides(fitted.model, "log_prob")
    best = log_marginal(fitted, x, num_samples=num_samples, method="exact") if exact else bound
    elbo, marginal = summarise(bound, "elbo"), summarise(best)
    ess, defined = bound["ess"].values, bound["ess"].notnull().any().item()
    row = Row(
        model=name,
        inference=fitted.settings.inference,
        seed=seed,
        data=data.name,
        treatment=data.treatment,
        split=split,
        num_data=len(x),
        elbo=_number(elbo.mean),
        elbo_mc_se=_number(elbo.mc_se),
        iwae_bound=_number(summarise(bound).mean),
        log_marginal=_number(marginal.mean),
        log_marginal_mc_se=_number(marginal.mc_se),
        log_marginal_data_se=_number(marginal.data_se),
        log_marginal_method=str(best["method"].values[0]),
        num_samples=num_samples,
        ess_median=_number(statistics.median(ess)) if defined else None,
        ess_min=_number(min(ess)) if defined else None,
        khat_bad_fraction=_number(1 - float(bound["ok"].mean())) if defined else None,
        approximation_gap=None,
        amortization_gap=None,
        train_seconds=fitted.seconds,
        infer_seconds_per_1000=_seconds_per_1000(fitted, x),
        num_parameters=fitted.num_parameters(),
    )
    return row, bound


def observations(data: Data, split: str, most: int | None = None) -> Tensor:
    """The data of a split that a fit can be judged on, the first so many of them [N, *event]."""
    x = data.splits[require.one_of("split", split, data.splits)]
    if data.dynamic and split == "train":
        raise PpvaeError(
            f"train of {data.name} (dynamic) holds intensities, redrawn at each visit: judge valid or test, "
            'or treatment="static"'
        )
    return x[:most]


def _seconds_per_1000(fitted: Fit, x: Tensor) -> float:
    """Seconds to find q for 1,000 new datapoints at once; fewer test data are used over."""
    many = x[torch.arange(_TIMED) % len(x)]
    fitted.posterior(many[:2])  # what only the first call costs
    start = time.perf_counter()
    fitted.posterior(many)
    return time.perf_counter() - start


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def free_directory(path: str | os.PathLike) -> Path:
    """A directory that can be made for this run, or stands there empty; nothing is made yet.

    Raises:
        PpvaeError: something stands there, or no directory can be made there.
    """
    try:
        target = Path(path)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise PpvaeError(f"{target} exists and is not an empty folder: choose another run directory")
        above = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    except (OSError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PpvaeError(f"{require.show(path)} cannot be a run directory: {why}") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise PpvaeError(f"cannot make the run directory {target}: {above} is no folder that you may write to")
    return target


def fresh_path(kind: str) -> Path:
    """runs/<kind>-<date>-<time>, with a number behind it if that second is taken; nothing is made yet."""
    stem = f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1000):
        path = Path("runs") / (stem if number == 0 else f"{stem}-{number}")
        if not path.exists():
            return path
    raise PpvaeError("runs/ has no free name left: choose one with run_dir")


def write_results(path: Path, rows: Sequence[Row], seconds: float) -> None:
    """results.json, schema 1; it is replaced whole, so a reader never meets half a file."""
    import ppvae

    document = {
        "schema": SCHEMA,
        "versions": {"ppvae": ppvae.__version__, "torch": torch.__version__},
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
    }
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_results(path: str | os.PathLike) -> list[Row]:
    """The rows of a results.json.

    Raises:
        PpvaeError: no such file, not JSON, another schema, or rows of other fields.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise PpvaeError(f"{path} has schema {document['schema']!r}, this version reads {SCHEMA}")
        return [Row(**row) for row in document["rows"]]
    except OSError as error:
        raise PpvaeError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PpvaeError(f"{path} is damaged: {type(error).__name__}: {error}") from error
