"""report.html of a run: one file with tables, pictures, their meaning in words, and how to repeat the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr
import yaml
from torch import Tensor

from ppvae import plots
from ppvae.data.dataset import Data
from ppvae.data.splits import observations
from ppvae.errors import PpvaeError
from ppvae.plots.gap_bars import figure_of_gaps
from ppvae.report.entries import Entry, Gathered, folders
from ppvae.report.page import Page, html
from ppvae.report.scatter import Sprite, scatter, series
from ppvae.report.sentences import label, reading
from ppvae.runs.averages import is_exact, lines
from ppvae.runs.files import replacing, write_text
from ppvae.runs.folder import CONFIG, FITS, OUTCOME, RESULTS, read_config, read_metrics
from ppvae.runs.gap_means import split_gaps
from ppvae.runs.results import Row, read_results
from ppvae.tasks.clustering import cluster, has_components
from ppvae.tasks.density import density_on_grid
from ppvae.tasks.reconstruction import reconstruct
from ppvae.tasks.sampling import sample
from ppvae.training.fitted import Fit
from ppvae.training.loading import load

REPORT, FIGURES = "report.html", "figures"
#: data in a grid of reconstructions
_SHOWN = 32


def write_report(run: Path) -> Path:
    """Write report.html and figures/ of a comparison or a fit, in place of earlier ones.

    Raises:
        PpvaeError: the directory is not a run, or has no results yet.
    """
    config = read_config(run)
    rows = read_results(run / RESULTS) if (run / RESULTS).is_file() else []
    single = "name" in config
    if not rows and not (single and (run / OUTCOME).is_file()):
        raise PpvaeError(
            f"{run} has no results yet: ppvae " + ("fit" if single else "compare") + f" --resume {run} continues it"
        )
    places = [run] if single else sorted(path for path in folders(run / FITS) if (path / RESULTS).is_file())
    entries = [Entry.read(place) for place in places]
    page = _page(run, config, rows, single)
    gathered = Gathered(page)
    if rows:
        gathered.keep("bounds", "ELBO (open) and log p (filled); a pair of dots is one seed.", plots.comparison(rows))
        _gaps(gathered, entries, rows)
    _curves(gathered, entries)
    if rows:
        _evidence(gathered, entries)
        _each_datum(gathered, entries)
        _warn(page, rows)
    _fits(gathered, entries)
    text = html(page)
    for picture in page.pictures:  # last, after all that can be refused
        with replacing(run / FIGURES / f"{picture.name}.png", sync=False) as scratch:
            scratch.write_bytes(picture.png)
    write_text(run / REPORT, text)
    return run / REPORT


def _page(run: Path, config: dict[str, Any], rows: Sequence[Row], single: bool) -> Page:
    """The content of a page without pictures."""
    versions = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")).get("versions", {})
    return Page(
        title=f"{config['name']} · {config['inference']}" if single else "Comparison",
        subtitle=f"{run} · {', '.join(f'{name} {value}' for name, value in versions.items())}",
        command=f"ppvae {'fit' if single else 'compare'} --config {run / CONFIG}",
        options=config,
        tables=list(lines(rows).values()),
        release=versions.get("ppvae"),
    )


def _gaps(gathered: Gathered, entries: Sequence[Entry], rows: Sequence[Row]) -> None:
    """The sentences, and the gaps as bars."""
    judged = {entry.row: entry.evidence for entry in entries if entry.row and entry.evidence is not None}
    splits = split_gaps(judged)
    gathered.page.sentences += reading(rows, splits)
    if splits:
        gathered.keep(
            "gaps",
            "The loss by inference in two parts: the loss of the best q of the family, and the further loss by the "
            "encoder (or the optimisation of rows). Seeds are averaged; error bars and ± are standard errors over "
            "data, of each part alone. Where the search for the best q falls short, the first part is too large.",
            figure_of_gaps(splits),
        )


def _each_datum(gathered: Gathered, entries: Sequence[Entry]) -> None:
    """The loss by inference on each datum: one picture per model and data set, at the first seed."""
    groups: dict[tuple[str, str, str, str], dict[tuple[str, str | None], tuple[int, Entry]]] = {}
    for entry in entries:
        row = entry.row
        if row is None or entry.evidence is None:
            continue
        group = groups.setdefault((entry.label, row.data, row.treatment, row.split), {})
        how = (row.inference, row.family)
        if how not in group or row.seed < group[how][0]:
            group[how] = (row.seed, entry)
    for (model, data, treatment, split), group in groups.items():
        evidence = [(*how, entry.evidence) for how, (_, entry) in group.items() if entry.evidence is not None]
        x = _judged_on(gathered, next(iter(group.values()))[1])
        key = repr((data, treatment, split))
        sprites = gathered.page.sprites
        if x is not None and key not in sprites:
            sprites[key] = Sprite.of(f"sprite-{len(sprites)}", x)
        plot = scatter(series(evidence), x, sprites.get(key), split)
        if plot is not None:
            caption = (
                f"{model} on {Path(data).name}: the loss by inference on each datum, against its log p; hover over a "
                "point, or move between points with the arrow keys, to see its datum."
            )
            gathered.page.scatters.append((caption, plot))


def _judged_on(gathered: Gathered, entry: Entry) -> Tensor | None:
    """The data of an evaluation; None where they are not available or not those of the fit."""
    assert entry.row is not None
    try:
        data = gathered.data(entry.config)
        same = (data.name, data.treatment) == (entry.row.data, entry.row.treatment)
        return observations(data, entry.row.split, entry.row.num_data).x if same else None
    except PpvaeError:
        return None


def _curves(gathered: Gathered, entries: Sequence[Entry]) -> None:
    """Bound against seconds: one picture per model and data set."""
    groups: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for entry in entries:
        groups.setdefault(entry.key, {}).setdefault(entry.config["inference"], []).append(read_metrics(entry.place))
    for (model, data), histories in groups.items():
        gathered.draw(
            f"training-{_slug(model)}",
            f"{model} on {Path(data).name}: the validation bound during training; one line per seed.",
            lambda ax, histories=histories: plots.bound_against_seconds(histories, ax),
        )


def _evidence(gathered: Gathered, entries: Sequence[Entry]) -> None:
    """log p̂ against the number of samples, and per datum of one strategy against another, at the first seed."""
    first: dict[str, dict[str, tuple[int, xr.Dataset]]] = {}
    for entry in entries:
        if entry.evidence is None:
            continue
        group, inference, seed = first.setdefault(entry.label, {}), entry.config["inference"], entry.config["seed"]
        if inference not in group or seed < group[inference][0]:
            group[inference] = (seed, entry.evidence)
    for model, group in first.items():
        running = {name: estimates for name, (_, estimates) in group.items() if "running" in estimates}
        if running:
            gathered.draw(
                f"samples-{_slug(model)}",
                f"{model}: the estimate of log p against the number of importance samples. One that still rises is a "
                "lower bound, not log p.",
                lambda ax, running=running: plots.convergence(running, ax),
            )
        one, *others = running or [""]
        for other in others:
            pair = (running[one], running[other])
            if pair[0].sizes["datum"] == pair[1].sizes["datum"]:
                gathered.draw(
                    f"datum-{_slug(model)}-{other}",
                    f"{model}: log p of each datum, {other} against {one}; open where an estimate did not pass.",
                    lambda ax, pair=pair, names=(one, other): plots.per_datum(*pair, ax, names=names),
                    (6.4, 5.8),
                )


def _fits(gathered: Gathered, entries: Sequence[Entry]) -> None:
    """Samples, reconstructions, densities, responsibilities of the best fit of each model and data set."""
    best: dict[tuple[str, str], tuple[float, Entry]] = {}
    for entry in entries:
        value = -math.inf if entry.row is None or entry.row.log_marginal is None else entry.row.log_marginal
        if entry.key not in best or value > best[entry.key][0]:
            best[entry.key] = (value, entry)
    for (model, _), (_, entry) in best.items():
        try:
            fitted = load(entry.place)
            data = gathered.data(entry.config)
        except PpvaeError as error:
            gathered.page.warnings.append(f"The report has no pictures of {model}: {error}")
            continue
        _pictures(gathered, model, fitted, data)


def _pictures(gathered: Gathered, model: str, fitted: Fit, data: Data) -> None:
    how, slug = f"{model} ({fitted.settings.inference})", _slug(model)
    if plots.is_image(tuple(data.event_shape)):
        drawn = sample(fitted, 64)
        gathered.draw(
            f"drawn-{slug}", f"{how}: means of 64 samples.", lambda ax: plots.image_grid(drawn.mean, ax), (5, 5)
        )
        x = observations(data, "test", _SHOWN).x
        recon = reconstruct(fitted, x)
        gathered.draw(
            f"reconstructed-{slug}",
            f"{how}: test data and, under each row, their reconstructions.",
            lambda ax: plots.reconstructions(x, recon.mean, ax),
            (5.5, 5.5),
        )
    elif tuple(data.event_shape) == (2,):
        gathered.draw(
            f"density-{slug}",
            f"{how}: p(x), with data.",
            lambda ax: plots.density(density_on_grid(fitted, data.test), ax),
            (5.2, 4.6),
        )
    if has_components(fitted.model):
        gathered.draw(
            f"responsibilities-{slug}",
            f"{how}: responsibilities p(k|x) of the test data, mixed from the components' colours.",
            lambda ax: plots.responsibilities(cluster(fitted, data.test), ax),
            (5.2, 4.6),
        )


def _warn(page: Page, rows: Sequence[Row]) -> None:
    for group in lines(rows).values():
        for line in group:
            bad = line.mean(lambda row: row.khat_bad_fraction)
            if bad and not is_exact(line):
                page.warnings.append(
                    f"{label(line)}: for {100 * bad:.0f}% of the data the importance-sampled estimate did not pass (k̂, "
                    "effective samples): there it is a lower bound (≥)."
                )
    if len({(row.data, row.treatment) for row in rows}) > 1:
        page.warnings.append(
            "Log p of different data, or of different treatments of the same data, cannot be compared: each has its "
            "own table."
        )
    page.warnings.append(
        "These diagnostics cannot detect a mode of the posterior that q never visits: k̂ and the effective sample size "
        "judge only the draws that were made."
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
