"""`ppvae compare`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.cli.printing import console
from ppvae.comparison.options import CompareOptions, from_earlier_comparison, of_fit
from ppvae.errors import PpvaeError
from ppvae.options import option
from ppvae.training.settings import EARLIER_NAMES, Settings


@register("compare", order=7, subject="models", model=True)
class CompareCommand(Command, CompareOptions):
    """Fit models under several inference strategies on the same data, and print what each costs and gives.

    Without arguments: the Gaussian mixture on iris, the deep latent Gaussian model and the VAE on digits, each per
    datapoint and amortized (the mixture exactly too), 3 seeds.
    """

    elsewhere = ". Options of a model are --model.NAME, settings of every fit --fit.NAME"
    words: ClassVar = {"model": "model_options"}
    parts: ClassVar = {"fit": Settings.options()}

    fit: dict[str, Any] = option({}, "settings of every fit, such as --fit.epochs 50; `ppvae fit --help` explains them")
    run_dir: str | None = option(None, "a new folder for the run; where None, runs/compare-DATE-TIME")
    resume: str | None = option(None, "folder of a comparison to continue where it stopped; takes no other option")

    checkpoint_seconds: float = option(60.0, "between two checkpoints of a fit; Ctrl-C makes one at once", at_least=0)

    @classmethod
    def refuse_unknown(cls, names: Iterable[Any]) -> None:
        for name in names:
            setting = EARLIER_NAMES.get(name, name)
            if setting in of_fit() and setting not in cls.options():
                raise PpvaeError(
                    f"{name} is a setting of every fit: write --fit.{setting}, or in a file {setting} under fit"
                )
            super().refuse_unknown([name])

    @classmethod
    def read_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        return from_earlier_comparison(config)

    def run(self) -> None:
        from ppvae.cli.model_options import checked
        from ppvae.comparison.plan import model_names
        from ppvae.comparison.run import compare
        from ppvae.report.table import tables
        from ppvae.report.write import write_report
        from ppvae.runs.files import new_run_path
        from ppvae.runs.folder import RESULTS, read_config
        from ppvae.runs.results import label

        if self.resume is not None:
            place = Path(self.resume)
            config = read_config(place)
            if "name" in config:
                raise PpvaeError(f"{place} is not a comparison: a fit continues with ppvae fit --resume {place}")
            options = CompareOptions.of(from_earlier_comparison(config))
        else:
            place = new_run_path("compare") if self.run_dir is None else Path(self.run_dir)
            options = CompareOptions.of({name: getattr(self, name) for name in CompareOptions.options()})
            if options.model_options:
                of_models = checked(model_names(options.models), options.model_options)
                options = options.replace(model_options=of_models)
        started = time.perf_counter()
        found = compare(
            options=options, run_dir=place, resume=self.resume is not None, checkpoint_seconds=self.checkpoint_seconds
        )
        assert found.run_dir is not None
        report = write_report(found.run_dir)
        for table in tables(found.rows):
            console().print(table)
        for trial in found.tuning:
            if trial.chosen:
                tried = [t for t in found.tuning if t.key == trial.key]
                spent = sum(t.seconds for t in tried)
                how = label(trial.inference, trial.family)
                print(f"tuned {trial.model} {how}: {trial.options} of {len(tried)} tried in {spent:.0f} s")
        print(f"{found.run_dir / RESULTS}  {report}  ({time.perf_counter() - started:.0f} s)")
