"""`ppvae fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.cli.printing import Treatment, column_of, name_of_run
from ppvae.errors import PpvaeError


@COMMANDS.register("fit", order=3)
def fit_command(
    name: str | None = None,
    data: str | None = None,
    run_dir: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    model: dict[str, Any] | None = None,
    treatment: Treatment | None = None,
    root: str | None = None,
    num_train: int | None = None,
    labels: str | None = None,
    data_seed: int = 0,
    **options: Any,
) -> None:
    """Train one model under one inference strategy, and keep the run.

    Args:
        name: a model of the zoo, or path/to/file.py:ClassName.
        data: a named data set, or a .npy, .npz or .csv file (default: digits, or with --init that fit's own).
        run_dir: a new folder for the run (default: runs/fit-DATE-TIME).
        resume: folder of a run to go on with where it stopped; takes no other option.
        init: folder of a fit to go on from, under the same or another inference, in place of a name.
        model: options of the model, such as --model.latent_dim 30; `ppvae fit NAME --help` lists them.
        treatment: how values become observations; log p differs by nats between treatments.
        root: folder of downloaded data (default: $PPVAE_DATA, else ~/.cache/ppvae).
        num_train: only the first so many training data.
        labels: column of a .csv, by name or number, that is no part of x.
        data_seed: of the static binarisation and of generated data.
    """
    from ppvae.runs.files import empty_directory, new_run_path
    from ppvae.runs.folder import is_finished, read_config
    from ppvae.training.loading import check_entries

    if resume is None:
        own = {} if init is None else read_config(Path(init))
        if init is not None and (name, model) == (own.get("name"), own.get("model")):
            name = model = None  # as the configuration of a run with --init has them
        if (name is None) == (init is None):
            raise PpvaeError("ppvae fit needs a name (ppvae list has them), or --init and no name")
        if init is not None and model:
            raise PpvaeError(f"the options of the model are those of {init}: leave out --model")
        where = (
            new_run_path("fit") if run_dir is None else empty_directory(run_dir)
        )  # refused now, not after the training
        if data is None and init is not None:
            if own.get("data") is None:
                raise PpvaeError(f"{init} was fitted to data made in Python: name data with --data")
            of_data = {key: own[key] for key in ("data", "treatment", "root", "num_train", "labels") if key in own}
            given = {"treatment": treatment, "root": root, "num_train": num_train, "labels": labels}
            of_data |= {key: value for key, value in given.items() if value is not None}
            _fit(where, False, name, model=model, init=init, data_seed=own.get("data_seed", 0), **of_data, **options)
            return
        data = "digits" if data is None else data
        _fit(where, False, name, data, model, init, treatment, root, num_train, labels, data_seed, **options)
        return
    where = Path(resume)
    config = read_config(where)
    if "name" not in config:
        raise PpvaeError(f"{where} is no run of ppvae fit: a comparison goes on with ppvae compare --resume {where}")
    if is_finished(where):
        raise PpvaeError(f"{where} is finished: ppvae evaluate {where} judges it")
    check_entries(config)
    if config["name"] is None or config.get("data") is None or config.pop("own_encoder", False):
        raise PpvaeError(
            f"{where} began with a class, data or an encoder made in Python: go on there with "
            "ppvae.fit(..., run_dir=, resume=True)"
        )
    _fit(where, True, **config)


def _fit(
    where: Path,
    resume: bool,
    name: str | None,
    data: str,
    model: dict[str, Any] | None,
    init: str | None = None,
    treatment: str | None = None,
    root: str | None = None,
    num_train: int | None = None,
    labels: str | None = None,
    data_seed: int = 0,
    **options: Any,
) -> None:
    import torch

    from ppvae.data.loading import load_data
    from ppvae.pair.zoo import build, model_class, options_from_data
    from ppvae.randomness import seeded
    from ppvae.training.fitting import fit
    from ppvae.training.loading import load

    seed = require.count("seed", options.get("seed", 0), least=0)
    require.count("data_seed", data_seed, least=0)
    loaded = load_data(
        data, treatment=treatment, root=root, seed=data_seed, num_train=num_train, labels=column_of(labels)
    )
    if init is not None:
        pair = load(init)
        name = name_of_run(Path(init))
    else:
        assert name is not None
        kind = model_class(name)
        with seeded(seed, device=torch.device("cpu")):
            pair = build(name, kind, options_from_data(kind, loaded, model or {}))
    fitted = fit(pair, loaded, run_dir=where, resume=resume, **options)
    last = fitted.history[-1]
    print(
        f"{name} under {fitted.settings.inference} on {loaded.name} ({loaded.treatment}): {last['step']:.0f} steps in "
        f"{fitted.seconds:.1f} s, stopped by {fitted.stopped}; best validation bound "
        f"{max(entry['valid_bound'] for entry in fitted.history):.2f} nats/datum"
    )
    print(f"saved to {where}; next: ppvae evaluate {where}")
