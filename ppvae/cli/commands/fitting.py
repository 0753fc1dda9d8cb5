"""`ppvae fit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ppvae import require
from ppvae.catalogue import MODELS, register
from ppvae.cli.command import Command
from ppvae.cli.printing import name_of_run
from ppvae.data.options import DataOptions
from ppvae.errors import PpvaeError
from ppvae.options import check_names, option
from ppvae.training.settings import Settings, from_earlier


@register("fit", order=3, subject="name", model=True)
class FitCommand(Command, DataOptions, Settings):
    """Train one model under one inference strategy, and keep the run."""

    elsewhere = ". Options of a model are --model.NAME"

    name: str | None = option(None, "a model of the zoo (`ppvae list` has them), or path/to/file.py:ClassName")
    model: dict[str, Any] = option(
        {}, "options of the model, such as --model.latent_dim 30; `ppvae fit NAME --help` lists them"
    )
    data: str | Any | None = option(
        None, "a named data set, or a .npy, .npz or .csv file; where None, digits, or with --init the data of that fit"
    )
    init: str | None = option(
        None, "folder of a fit to continue from, under the same or another inference, in place of a name"
    )
    run_dir: str | None = option(None, "a new folder for the run; where None, runs/fit-DATE-TIME")
    resume: str | None = option(None, "folder of a run to continue where it stopped; takes no other option")
    checkpoint_seconds: float = option(60.0, "between two checkpoints; Ctrl-C makes one at once", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and ":" not in self.name:
            require.one_of("model", self.name, MODELS, ", or path/to/file.py:ClassName")
            check_names(self.name, MODELS.options(self.name) or self.model, self.model)

    @classmethod
    def read_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        return from_earlier(config)

    @classmethod
    def of_words(cls, given: Mapping[str, Any]) -> Self:
        if (init := given.get("init")) is not None:
            given = {**_of_origin(init, given), **given}
        return cls.of(given)

    def run(self) -> None:
        from ppvae.runs.files import empty_directory, new_run_path

        if self.resume is not None:
            _resumed(self.resume)._train(Path(self.resume), resume=True)
            return
        name, model = self.name, self.model
        if self.init is not None:
            from ppvae.runs.folder import read_config

            own = read_config(Path(self.init))
            if (name, model) == (own.get("name"), own.get("model")):
                name, model = None, {}  # as the configuration of a run with --init has them
        if (name is None) == (self.init is None):
            raise PpvaeError("ppvae fit needs a name (ppvae list has them), or --init and no name")
        if self.init is not None and model:
            raise PpvaeError(f"the options of the model are those of {self.init}: remove --model")
        # refused now, not after the training
        place = new_run_path("fit") if self.run_dir is None else empty_directory(self.run_dir)
        self._train(place, resume=False)

    def _train(self, place: Path, resume: bool) -> None:
        from ppvae.cli.model_options import checked
        from ppvae.pair.zoo import build_for
        from ppvae.training.fitting import fit
        from ppvae.training.loading import load

        options = DataOptions.of(_part(self, DataOptions) | {"data": self.data or "digits"})
        settings = Settings.of(_part(self, Settings))
        if self.init is None:
            assert self.name is not None
            name, data = self.name, options.load()
            pair = build_for(name, data, checked([name], self.model), seed=settings.seed)
        else:
            name, pair = name_of_run(Path(self.init)), load(self.init)
            data = options.load(pair.preparation)  # θ is in the units of the data that it was trained on
        fitted = fit(
            pair, data, settings=settings, run_dir=place, resume=resume, checkpoint_seconds=self.checkpoint_seconds
        )
        last = fitted.history[-1]
        print(
            f"{name} under {fitted.settings.inference} on {data.name} ({data.treatment}): {last['step']:.0f} steps in "
            f"{fitted.seconds:.1f} s, stopped by {fitted.stopped}; best validation bound "
            f"{max(entry['valid_bound'] for entry in fitted.history):.2f} nats/datum"
        )
        print(f"saved to {place}; next: ppvae evaluate {place}")


def _part(command: FitCommand, kind: type[DataOptions | Settings]) -> dict[str, Any]:
    return {name: getattr(command, name) for name in kind.options()}


def _of_origin(init: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the fit that another one starts from, where no data were given."""
    from ppvae.runs.folder import read_config

    own = read_config(Path(init))
    if given.get("data") is not None:
        return {}
    if own.get("data") is None:
        raise PpvaeError(f"{init} was fitted to data made in Python: name data with --data")
    return {name: own[name] for name in DataOptions.options() if own.get(name) is not None}


def _resumed(run: str) -> FitCommand:
    """The command that a run was started by."""
    from ppvae.runs.folder import is_finished, read_config
    from ppvae.training.loading import check_entries

    config = read_config(Path(run))
    if "name" not in config:
        raise PpvaeError(f"{run} is not a run of ppvae fit: a comparison continues with ppvae compare --resume {run}")
    if is_finished(Path(run)):
        raise PpvaeError(f"{run} is finished: ppvae evaluate {run} judges it")
    config = from_earlier(config)
    check_entries(config)
    if config["name"] is None or config.get("data") is None or config.pop("own_encoder", False):
        raise PpvaeError(
            f"{run} started with a class, data or an encoder made in Python: continue there with "
            "ppvae.fit(..., run_dir=, resume=True)"
        )
    return FitCommand.of(config)
