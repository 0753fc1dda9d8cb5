"""`ppvae evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.cli.printing import evaluation_lines, name_of_run, trained_fit
from ppvae.comparison.options import JudgeOptions
from ppvae.data.treatment import treatments
from ppvae.errors import PpvaeError
from ppvae.options import given, option

if TYPE_CHECKING:
    from ppvae.data.dataset import Data
    from ppvae.training.fitted import Fit


@register("evaluate", order=4, subject="run", required=True)
class EvaluateCommand(Command, JudgeOptions):
    """Estimate log p(x) of a saved fit on its data, and say how far the estimate can be trusted."""

    words: ClassVar = {"run": "folder", "num_data": "num_test"}

    folder: str | None = option(None, "folder of a saved fit")
    num_test: int | None = option(None, "the number of data that are judged, the first ones", at_least=1)
    compile: bool = option(False, "run the model compiled; pays for itself in long evaluations")
    data: str | None = option(None, "other data than those of the fit")
    split: Literal["train", "valid", "test", "all"] = option(
        "test", "which part of the data; all is every row, in the order of a file of your own"
    )
    treatment: str | None = option(None, "where it should differ from that of the fit", one_of=treatments)
    root: str | None = option(None, "folder of downloaded data; where None, as the fit has it")
    labels: int | str | None = option(None, "the column of a .csv, by name or number, that is not part of x")
    out: str | None = option(
        None,
        "a new file for the estimates of every datum, .csv (log_marginal is an outlier score; of a mixture clusters) "
        "or .nc (netCDF); without it they go into the run, with results.json, where it has none yet",
    )
    overwrite: bool = option(False, "replace the results that the run has")
    seed: int = option(0, "of the draws", at_least=0)

    def run(self) -> None:
        from ppvae.comparison.evaluation import evaluate
        from ppvae.data.splits import observations
        from ppvae.evidence.marginal import check_method
        from ppvae.pair.checks import check
        from ppvae.runs.evidence import keep_evidence, write_evidence
        from ppvae.runs.files import free_file
        from ppvae.tasks.outliers import write_scores

        assert self.folder is not None
        check_method(self.method, self.method_options or None)
        place = Path(self.folder)
        target = None if self.out is None else free_file(self.out)
        fit = trained_fit(place)
        data = self._data(place, fit)
        # values outside the support of the likelihood, as of another treatment
        check(fit.model, fit.as_input(observations(data, self.split, self.num_test))[:7])
        judge = JudgeOptions.of({name: getattr(self, name) for name in JudgeOptions.options()})
        found = evaluate(
            fit, data, options=judge, name=name_of_run(place), split=self.split, seed=self.seed, compile=self.compile,
            progress=None,
        )  # fmt: skip
        print("\n".join(evaluation_lines(found, fit.settings.inference, self.num_gaps)))
        if target is None:
            print(keep_evidence(place, found.row, found.estimates, self.overwrite))
            return
        if target.suffix.lower() == ".csv":
            write_scores(target, found.estimates, fit, data, self.split)
        else:
            write_evidence(target, found.estimates)
        print(f"estimates of every datum: {target}")

    def _data(self, place: Path, fit: Fit) -> Data:
        """The data of the fit, or others under the same treatment, with what was given in place of their own."""
        from ppvae.data.loading import load_data
        from ppvae.runs.folder import data_arguments, read_config

        if self.data is None and fit.data.source is None:
            raise PpvaeError(f"{place} was fitted to data made in Python: name data to judge it on with --data")
        own: dict[str, Any] = {"name": self.data, "treatment": fit.data.treatment}
        arguments = data_arguments(read_config(place)) if self.data is None else own
        return load_data(**arguments | given(treatment=self.treatment, root=self.root, labels=self.labels))
