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
    from ppvae.data.splits import Observations
    from ppvae.training.fitted import Fit


@register("evaluate", order=4, subject="run", required=True)
class EvaluateCommand(Command, JudgeOptions):
    """Estimate log p(x) of a saved fit on its data, and say how far the estimate can be trusted."""

    words: ClassVar = {"run": "folder", "num_data": "num_test"}

    folder: str | None = option(None, "folder of a saved fit")
    num_test: int | None = option(None, "the number of data that are judged, the first ones", at_least=1)
    compile: bool = option(False, "run the model compiled; pays for itself in long evaluations")
    data: str | None = option(
        None,
        "other data than those of the fit, which are prepared as those were: by their means and scales, columns "
        "matched by name; a file without splits is judged as a whole",
    )
    split: Literal["train", "valid", "test", "all"] | None = option(
        None,
        "which part of data that are split; all is every row, in the order of a file of your own; where None, test",
    )
    treatment: str | None = option(
        None, "where it should differ from that of the fit, among those that make binary values", one_of=treatments
    )
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
        check(fit.model, fit.as_input(data.x)[:7])
        judge = JudgeOptions.of({name: getattr(self, name) for name in JudgeOptions.options()})
        found = evaluate(
            fit, data, options=judge, name=name_of_run(place), seed=self.seed, compile=self.compile,
            progress=None,
        )  # fmt: skip
        print("\n".join(evaluation_lines(found, fit.settings.inference, self.num_gaps)))
        if target is None:
            print(keep_evidence(place, found.row, found.estimates, self.overwrite))
            return
        if target.suffix.lower() == ".csv":
            write_scores(target, found.estimates, fit, data)
        else:
            write_evidence(target, found.estimates)
        print(f"estimates of every datum: {target}")

    def _data(self, place: Path, fit: Fit) -> Observations:
        """The data of the fit, or others, prepared as the training data were."""
        from ppvae.data.loading import load_data
        from ppvae.data.new_data import read_new
        from ppvae.data.splits import observations
        from ppvae.runs.folder import data_arguments, read_config

        own = {"root": self.root, "labels": self.labels, "treatment": self.treatment}
        if self.data is not None:
            return read_new(self.data, fit.preparation, split=self.split, **own)
        if fit.data.source is None:
            raise PpvaeError(f"{place} was fitted to data made in Python: name data to judge it on with --data")
        arguments: dict[str, Any] = data_arguments(read_config(place)) | given(**own)
        data = load_data(**arguments, like=fit.data.preparation)
        if len(data.train) != fit.data.num_data:
            raise PpvaeError(
                f"{data.name} has {len(data.train)} training rows, and the fit was trained on {fit.data.num_data}: it "
                f"has changed since, so judge it as other data, with --data {arguments['name']}"
            )
        return observations(data, self.split or "test")
