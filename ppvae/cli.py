"""The command line: `ppvae list | show | fit | evaluate | compare`.

Every option comes from the typed signature of the function behind the command.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from ppvae.errors import PpvaeError

Treatment = Literal["static", "dynamic", "threshold", "real", "standardised", "binary"]
_console = Console(width=None if sys.stdout.isatty() else 160)


def list_command() -> None:
    """Name the models, the strategies and the data sets there are."""
    import ppvae
    from ppvae.registry import model_class, strategy_class

    for title, names, find in (
        ("models", ppvae.list_models(), model_class),
        ("inference", ppvae.list_inference(), strategy_class),
        ("data", ppvae.list_data(), None),
    ):
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name in names:
            table.add_row(f"  {name}", "" if find is None else _first_line(sys.modules[find(name).__module__]))
        _console.print(table)


def show_command(name: str) -> None:
    """Show a model or a strategy: what it is, and its options.

    Args:
        name: of the zoo, or path/to/file.py:ClassName.
    """
    import ppvae
    from ppvae import require
    from ppvae.registry import model_class, option_names, strategy_class

    if ":" not in name:
        require.one_of("name", name, [*ppvae.list_models(), *ppvae.list_inference()])
    cls = strategy_class(name) if name in ppvae.list_inference() else model_class(name)
    module = sys.modules.get(cls.__module__)
    story = inspect.getdoc(module) if module is not None else None
    for text in (story, inspect.getdoc(cls)):
        if text:
            print(text, end="\n\n")
    print("Options:")
    for option, parameter in option_names(cls, skip=("self", "model", "x")).items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
        print(f"  {option}: {parameter.annotation}  ({default})")


def fit_command(
    name: str,
    data: str = "digits",
    inference: str = "amortized",
    run_dir: str | None = None,
    model: dict[str, Any] | None = None,
    inference_options: dict[str, Any] | None = None,
    treatment: Treatment | None = None,
    root: str | None = None,
    num_train: int | None = None,
    kl: Literal["analytic", "mc"] = "analytic",
    num_particles: int = 1,
    batch_size: int = 100,
    lr: float = 1e-3,
    lr_encoder: float | None = None,
    lr_phi: float | None = None,
    max_epochs: int = 200,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    patience: int | None = 20,
    eval_every: int | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true",
    seed: int = 0,
) -> None:
    """Train one model under one inference strategy, and save it.

    Args:
        name: a model of the zoo, or path/to/file.py:ClassName.
        data: a named data set, or a .npy, .npz or .csv file.
        inference: where φ comes from; see `ppvae list`.
        run_dir: a new folder for the fit (default: runs/fit-DATE-TIME).
        model: options of the model, such as --model.latent_dim 30.
        inference_options: options of the strategy, such as --inference_options.inner_steps converge.
        treatment: how values become observations; log p differs by nats between treatments.
        root: folder of downloaded data (default: $PPVAE_DATA, else ~/.cache/ppvae).
        num_train: only the first so many training data.
        kl: integrate KL terms in closed form where that is exact, or use the draws.
        num_particles: draws for each datapoint and step.
        batch_size: datapoints a step.
        lr: Adam's learning rate for θ.
        lr_encoder: for the encoder and for weights of the guide (default: as lr).
        lr_phi: for per-datapoint rows (default: the strategy's).
        max_epochs: passes over the training data.
        max_steps: steps in all.
        max_seconds: of training.
        patience: evaluations without a better validation bound before training stops; null never stops.
        eval_every: epochs between evaluations (default: as many as make 200 steps).
        accelerator: cpu, cuda, … or auto.
        precision: of weights and arithmetic.
        seed: of everything random.
    """
    import torch

    import ppvae
    from ppvae import require
    from ppvae.compare import fill, fresh_path, new_directory
    from ppvae.randomness import seeded

    require.count("seed", seed, least=0)
    loaded = ppvae.load_data(data, treatment=treatment, root=root, num_train=num_train)
    options = fill(name, loaded, model or {})
    with seeded(seed, device=torch.device("cpu")):
        pair = ppvae.create(name, **options)
    if run_dir is not None:
        new_directory(run_dir).rmdir()  # refused now rather than after the training
    fitted = ppvae.fit(
        pair, loaded, inference, inference_options=inference_options, kl=kl, num_particles=num_particles,
        batch_size=batch_size, lr=lr, lr_encoder=lr_encoder, lr_phi=lr_phi, max_epochs=max_epochs, max_steps=max_steps,
        max_seconds=max_seconds, patience=patience, eval_every=eval_every, accelerator=accelerator,
        precision=precision, seed=seed,
    )  # fmt: skip
    where = fresh_path("fit") if run_dir is None else Path(run_dir)
    fitted.save(str(where))
    last = fitted.history[-1]
    print(
        f"{name} under {inference} on {loaded.name} ({loaded.treatment}): {last['step']:.0f} steps in "
        f"{fitted.seconds:.1f} s, stopped by {fitted.stopped}; best validation bound "
        f"{max(entry['valid_bound'] for entry in fitted.history):.2f} nats/datum"
    )
    print(f"saved to {where}; next: ppvae evaluate {where}")


def evaluate_command(
    run: str,
    num_samples: int = 1000,
    method: Literal["importance", "exact"] = "importance",
    data: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    treatment: Treatment | None = None,
    root: str | None = None,
    num_data: int | None = None,
    out: str | None = None,
    seed: int = 0,
) -> None:
    """Estimate log p(x) of a saved fit on its data, and say how far the estimate can be trusted.

    Args:
        run: folder of a saved fit.
        num_samples: importance samples a datum.
        method: importance, or exact where the model has a closed form.
        data: other data than the fit's own.
        split: which part of the data.
        treatment: where it should differ from the fit's own.
        root: folder of downloaded data.
        num_data: only the first so many.
        out: a new netCDF file for the estimates of every datum.
        seed: of the draws.
    """
    import ppvae
    from ppvae import require
    from ppvae.reliability import khat_threshold

    if num_data is not None:
        require.count("num_data", num_data)
    if out is not None and (Path(out).exists() or not Path(out).absolute().parent.is_dir()):
        raise PpvaeError(f"{out} exists, or its folder does not: choose another file")
    fitted = ppvae.load(run)
    own = fitted.settings
    if data is None and own.source is None:
        raise PpvaeError(f"{run} was fitted to data made in Python: name data to judge it on with --data")
    loaded = ppvae.load_data(data or own.source or "", treatment=treatment or own.treatment, root=root)
    x = getattr(loaded, split)[:num_data]
    estimates = ppvae.log_marginal(fitted, x, num_samples=num_samples, method=method, seed=seed, progress=None)
    mean, bound = ppvae.summarise(estimates), ppvae.summarise(estimates, "elbo")
    print(f"{loaded.name} ({loaded.treatment}), {len(x)} {split} data, {own.inference}, nats/datum")
    if method == "importance":
        print(f"ELBO              {bound.mean:10.3f} ± {bound.mc_se:.3f}")
    print(f"log p(x)          {mean.mean:10.3f} ± {mean.mc_se:.3f} sampling, ± {mean.data_se:.3f} from so many data")
    if bool(estimates["ess"].notnull().any()):
        passed, ess = float(estimates["ok"].mean()), estimates["ess"]
        print(f"effective samples {float(ess.median()):10.0f} median, {float(ess.min()):.0f} least, of {num_samples}")
        limit = khat_threshold(num_samples)
        print(f"reliable          {100 * passed:9.0f}% of the data: k̂ ≤ {limit:.2f} and 100 effective samples")
        print("                  an estimate that is not reliable is a lower bound in expectation")
    if out is not None:
        estimates.drop_attrs(deep=False).assign_attrs(estimates.attrs).to_netcdf(out, engine="h5netcdf")
        print(f"estimates of every datum: {out}")


def compare_command(
    models: list[str] | None = None,
    inference: list[str] | None = None,
    data: str | None = None,
    seeds: list[int] | None = None,
    run_dir: str | None = None,
    model: dict[str, Any] | None = None,
    inference_options: dict[str, dict[str, Any]] | None = None,
    fit: dict[str, Any] | None = None,
    treatment: Treatment | None = None,
    root: str | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    num_samples: int = 1000,
    max_seconds: float | None = None,
) -> None:
    """Fit models under several inference strategies on the same data, and print what each costs and gives.

    Without arguments: the Gaussian mixture on iris, the deep latent Gaussian model and the VAE on digits, each per
    datapoint and amortized (the mixture exactly too), 3 seeds.

    Args:
        models: of the zoo, or path/to/file.py:ClassName: --models '[vae, my.py:Mine]', or one name.
        inference: strategies (default: all that the model allows).
        data: a named data set, or a .npy, .npz or .csv file (default: the model's own, else digits).
        seeds: of initialisation, training and evaluation (default: 0, 1, 2).
        run_dir: a new folder for results.json and the picture (default: runs/compare-DATE-TIME).
        model: options of every model, such as --model.latent_dim 30.
        inference_options: of each strategy, such as --inference_options '{per-datapoint: {inner_steps: 5}}'.
        fit: options of training, such as --fit.max_epochs 50; `ppvae fit --help` explains them.
        treatment: how values become observations; log p differs by nats between treatments.
        root: folder of downloaded data (default: $PPVAE_DATA, else ~/.cache/ppvae).
        num_train: only the first so many training data.
        num_test: only the first so many test data.
        num_samples: importance samples a datum.
        max_seconds: of training, for each fit.
    """
    from ppvae.compare import compare, fresh_path, option_names_of_fit
    from ppvae.plots import comparison
    from ppvae.table import tables

    settings = dict(fit or {})
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
    for option in settings:
        if option not in option_names_of_fit():
            raise PpvaeError(f"unknown option --fit.{option}: known are {', '.join(option_names_of_fit())}")
    started = time.perf_counter()
    found = compare(
        models, inference, data, [0, 1, 2] if seeds is None else seeds, treatment=treatment, root=root,
        num_train=num_train, num_test=num_test, num_samples=num_samples, model_options=model,
        inference_options=inference_options, run_dir=run_dir or fresh_path("compare"), **settings,
    )  # fmt: skip
    for table in tables(found.rows):
        _console.print(table)
    assert found.run_dir is not None
    picture = found.run_dir / "bounds.png"
    comparison(found.rows).savefig(picture, dpi=150)
    print(f"{found.run_dir / 'results.json'}  {picture}  ({time.perf_counter() - started:.0f} s)")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "show": show_command,
    "fit": fit_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
}


class _Parser(ArgumentParser):
    """Says what is wrong in one line, rather than usage and a trace."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise PpvaeError(_one_line(message)) from ex


def parser() -> ArgumentParser:
    """The parser of all commands; a command's options are those of its function."""
    top = _Parser(prog="ppvae", description="Latent-variable models under every inference strategy.")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        sub = _Parser(description=(inspect.getdoc(function) or "").partition("\nArgs:")[0])
        sub.add_argument("--config", action="config", help="a YAML file with any of these options")
        sub.add_function_arguments(function, as_group=False, as_positional=True)
        commands.add_subcommand(name, sub, help=_first_line(function))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line on stderr for a user's mistake."""
    given = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in given
    try:
        found = parser().parse_args(given)
        options = found[found["command"]].as_dict()
        options.pop("config", None)
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            COMMANDS[found["command"]](**options)
    except PpvaeError as error:
        if debug:
            raise
        print(f"ppvae: error: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppvae: interrupted", file=sys.stderr)
        return 130
    return 0


def _underscored(word: str) -> str:
    """--run-dir is --run_dir; values, and names of strategies inside them, are left alone."""
    match = re.match(r"--[\w.-]+", word)
    return word if match is None else match.group().replace("-", "_").replace("__", "--", 1) + word[match.end() :]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
