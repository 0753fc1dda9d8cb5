"""The command line: `ppvae list | show | fit | evaluate | compare`.

Every option comes from the typed signature of the function behind the command.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from ppvae import require
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
    from ppvae.registry import model_class, option_names, strategy_class

    in_zoo = ":" not in name
    if in_zoo:
        known = [*ppvae.list_models(), *ppvae.list_inference()]
        require.one_of("name", name, known, ", or path/to/file.py:ClassName")
    cls = strategy_class(name) if name in ppvae.list_inference() else model_class(name)
    # a file is no module that sys.modules knows; and what a class inherits says nothing about it
    for text in (sys.modules[cls.__module__].__doc__ if in_zoo else None, cls.__doc__):
        if text:
            print(inspect.cleandoc(text), end="\n\n")
    print("Options:")
    for option, parameter in option_names(cls, skip=("self", "model", "x")).items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
        print(f"  {option}{_type_of(parameter)}  ({default})")


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
    from ppvae.compare import fill, free_directory, fresh_path
    from ppvae.randomness import seeded
    from ppvae.registry import build, model_class

    require.count("seed", seed, least=0)
    if run_dir is not None:
        free_directory(run_dir)  # refused now rather than after the training
    loaded = ppvae.load_data(data, treatment=treatment, root=root, num_train=num_train)
    kind = model_class(name)
    options = fill(kind, loaded, model or {})
    with seeded(seed, device=torch.device("cpu")):
        pair = build(name, kind, options)
    fitted = ppvae.fit(
        pair, loaded, inference, inference_options=inference_options, kl=kl, num_particles=num_particles,
        batch_size=batch_size, lr=lr, lr_encoder=lr_encoder, lr_phi=lr_phi, max_epochs=max_epochs, max_steps=max_steps,
        max_seconds=max_seconds, patience=patience, eval_every=eval_every, accelerator=accelerator,
        precision=precision, seed=seed,
    )  # fmt: skip
    where = fresh_path("fit") if run_dir is None else Path(run_dir)
    fitted.save(where)
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
    from ppvae.compare import observations
    from ppvae.reliability import khat_threshold

    if num_data is not None:
        require.count("num_data", num_data)
    if out is not None and (Path(out).exists() or not Path(out).absolute().parent.is_dir()):
        raise PpvaeError(f"out: {out!r} exists, or its folder does not: choose another file")
    fitted = ppvae.load(run)
    own = fitted.settings
    if data is None and own.source is None:
        raise PpvaeError(f"{run} was fitted to data made in Python: name data to judge it on with --data")
    loaded = ppvae.load_data(data or own.source or "", treatment=treatment or own.treatment, root=root)
    x = fitted.as_input(observations(loaded, split, num_data))
    ppvae.check(fitted.model, x[:7])  # values outside the support of the likelihood, as of another treatment
    estimates = ppvae.log_marginal(fitted, x, num_samples=num_samples, method=method, seed=seed, progress=None)
    mean, bound = ppvae.summarise(estimates), ppvae.summarise(estimates, "elbo")
    print(f"{loaded.name} ({loaded.treatment}), {len(x)} {split} data, {own.inference}, nats/datum")
    if method == "importance":
        print(f"ELBO              {bound.mean:10.3f} ± {_error(bound.mc_se)}")
    print(
        f"log p(x)          {mean.mean:10.3f} ± {_error(mean.mc_se)} sampling, "
        f"± {_error(mean.data_se)} from so many data"
    )
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
    models: list[str] | str | None = None,
    inference: list[str] | str | None = None,
    data: str | None = None,
    seeds: list[int] | int | None = None,
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
        inference: strategies, a list or one name (default: all that the model allows).
        data: a named data set, or a .npy, .npz or .csv file (default: the model's own, else digits).
        seeds: of initialisation, training and evaluation: --seeds '[0, 1]', or one (default: 0, 1, 2).
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
        require.one_of("option of fit", option, option_names_of_fit())
    started = time.perf_counter()
    found = compare(
        models, inference, data, [0, 1, 2] if seeds is None else seeds, treatment=treatment, root=root,
        num_train=num_train, num_test=num_test, num_samples=num_samples, model_options=model,
        inference_options=inference_options, run_dir=run_dir or fresh_path("compare"), **settings,
    )  # fmt: skip
    assert found.run_dir is not None
    picture = found.run_dir / "bounds.png"
    comparison(found.rows).savefig(picture, dpi=150)
    for table in tables(found.rows):
        _console.print(table)
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

    #: the function behind the command
    function: Callable[..., None] | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message, prog = _one_line(message), self.prog.replace(" [options]", "")
        if missing := re.match(r"the following arguments are required: (\w+)\.(\w+)", message):
            raise PpvaeError(f"{prog} {missing[1]} needs a {missing[2]}; see {prog} {missing[1]} --help") from ex
        if self.function is not None:
            _explain(message, self.function)
        raise PpvaeError(f"{message}; see {prog} --help") from ex


def _explain(message: str, function: Callable[..., None]) -> None:
    """Raise, in a user's words, what jsonargparse says about a value, an unknown option or a file of options."""
    options = {name: _kinds(hint) for name, hint in get_type_hints(function).items() if name != "return"}
    value = re.match(r'Parser key "(\w+)":.* (?:Got|Given) value: ?(.*)', message)
    if value and (name := value[1]) in options:
        given = value[2]
        if nested := re.fullmatch(r"NestedArg\(key='(.*)', val='(.*)'\)", given):
            given = f"{{{nested[1]}: {nested[2]}}}"
        for kind in options[name]:
            if get_origin(kind) is Literal:
                require.one_of(name, given, get_args(kind))
        raise PpvaeError(f"--{name} must be {' or '.join(map(_in_words, options[name]))}, got {require.show(given)}")
    if unknown := re.match(r"unrecognized arguments: --([\w-]+)", message):
        more = ". Options of a model are --model.NAME" if "model" in options else ""
        require.one_of("option", unknown[1], options, more)
    words = [name for name, kinds in options.items() if str in kinds and NoneType in kinds]
    if words and (unknown := re.match("unrecognized arguments: (.*)", message)):
        raise PpvaeError(f"unknown words {unknown[1]!r}: a value follows its option, like --{words[0]} VALUE")
    if message.startswith("Unexpected config:"):
        raise PpvaeError(f"--config must name a file of YAML like 'seed: 1', a line an option: {message}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a word", NoneType: "null"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is list:
        return "a list like [a, b]"
    return "a mapping like {a: {b: 1}}" if get_origin(get_args(kind)[1]) is dict else "a mapping like {a: 1}"


def parser() -> ArgumentParser:
    """The parser of all commands; a command's options are those of its function."""
    # an abbreviated option would change its meaning, or fail, with the next option that is added
    top = _Parser(
        prog="ppvae", description="Latent-variable models under every inference strategy.", allow_abbrev=False
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        sub = _Parser(description=(inspect.getdoc(function) or "").partition("\nArgs:")[0], allow_abbrev=False)
        sub.function = function
        sub.add_argument("--config", action="config", help="a YAML file with any of these options")
        sub.add_function_arguments(function, as_group=False, as_positional=True)
        commands.add_subcommand(name, sub, help=_first_line(function))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line on stderr where something is wrong."""
    given = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in given
    try:
        found = parser().parse_args([word for word in given if word != "--debug"])
        options = found[found["command"]].as_dict()
        options.pop("config", None)
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            COMMANDS[found["command"]](**options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("ppvae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        text = _one_line(str(error))
        if not isinstance(error, PpvaeError):  # a fault of the user's own model, of the disk, or of ppvae
            text = f"{type(error).__name__}: {require.shorten(text)} (--debug shows where)"
        print(f"ppvae: error: {text}", file=sys.stderr)
        return 2
    return 0


def _underscored(word: str) -> str:
    """--run-dir is --run_dir; values, and names of strategies inside them, are left alone."""
    match = re.match(r"--[\w.-]+", word)
    return word if match is None else match.group().replace("-", "_").replace("__", "--", 1) + word[match.end() :]


def _type_of(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return f": {kind if isinstance(kind, str) else inspect.formatannotation(kind)}"


def _error(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
