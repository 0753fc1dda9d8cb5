"""report.html of a run: one file with the table, the pictures, what they say in words, and how to make it again."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppvae import plots
from ppvae.compare import EVIDENCE, FITS, RESULTS
from ppvae.data import Data, load_data
from ppvae.errors import PpvaeError
from ppvae.evaluation import observations, read_evidence
from ppvae.files import replacing, write_text
from ppvae.fitted import Fit
from ppvae.results import Row, one_row, read_results
from ppvae.sampling import reconstruct, sample
from ppvae.saving import CONFIG, OUTCOME, data_arguments, load, read_config, read_metrics
from ppvae.table import Line, filled, is_bound, is_exact, lines, log_marginal
from ppvae.table import title as table_title

REPORT, FIGURES = "report.html", "figures"
#: differences of more standard errors than this are called differences
_CLEAR = 2.0
#: data in a grid of reconstructions
_SHOWN = 32


@dataclass
class _Page:
    """What is gathered for the page: pictures with their captions, and warnings."""

    run: Path
    pictures: list[tuple[str, str, bytes]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def draw(
        self, name: str, caption: str, paint: Callable[[Axes], object], size: tuple[float, float] = (7, 4.2)
    ) -> None:
        """One picture."""
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        self.keep(name, caption, figure)

    def keep(self, name: str, caption: str, figure: Figure) -> None:
        buffer = BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        self.pictures.append((name, caption, buffer.getvalue()))


def write_report(run: Path) -> Path:
    """Write report.html and figures/ of a comparison, or of a fit; they replace the ones before.

    Raises:
        PpvaeError: the directory is no run, or has nothing to report yet.
    """
    config = read_config(run)
    rows = read_results(run / RESULTS) if (run / RESULTS).is_file() else []
    single = "name" in config
    places = [run] if single else sorted(path for path in _folders(run / FITS) if (path / RESULTS).is_file())
    if not rows and not (single and (run / OUTCOME).is_file()):
        raise PpvaeError(
            f"{run} has no results yet: ppvae " + ("fit" if single else "compare") + f" --resume {run} goes on"
        )
    page = _Page(run)
    if rows:
        page.keep("bounds", "ELBO (open) and log p (filled); a pair of dots is one seed.", plots.comparison(rows))
    _curves(page, places)
    if rows:
        _evidence(page, places)
        _warn(page, rows)
    _fits(page, places, rows)
    command = "fit" if single else "compare"
    title = f"{config['name']} · {config['inference']}" if single else "Comparison"
    text = _html(page, title, config, rows, f"ppvae {command} --config {run / CONFIG}")
    for name, _, picture in page.pictures:  # now that nothing can be refused any more
        with replacing(run / FIGURES / f"{name}.png", sync=False) as scratch:
            scratch.write_bytes(picture)
    write_text(run / REPORT, text)
    return run / REPORT


def _folders(place: Path) -> list[Path]:
    return list(place.iterdir()) if place.is_dir() else []


def _curves(page: _Page, places: Sequence[Path]) -> None:
    """Bound against seconds, a picture for each model and data set."""
    groups: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for place in places:
        config = read_config(place)
        key = (_label(place, config), str(config["data"]))
        groups.setdefault(key, {}).setdefault(config["inference"], []).append(read_metrics(place))
    for (model, data), histories in groups.items():
        page.draw(
            f"training-{_slug(model)}",
            f"{model} on {Path(data).name}: the validation bound while training; a line a seed.",
            lambda ax, histories=histories: plots.bound_against_seconds(histories, ax),
        )


def _label(place: Path, config: dict[str, Any]) -> str:
    """What results call the model."""
    if (place / RESULTS).is_file():
        return Path(one_row(place / RESULTS).model).name
    return Path(str(config["name"])).name


def _evidence(page: _Page, places: Sequence[Path]) -> None:
    """log p̂ per datum of one strategy against another, and against the number of samples, at the first seed."""
    first: dict[str, dict[str, tuple[int, xr.Dataset]]] = {}
    for place in places:
        if not (place / EVIDENCE).is_file():
            continue
        config = read_config(place)
        estimates = read_evidence(place / EVIDENCE)
        group = first.setdefault(_label(place, config), {})
        if config["inference"] not in group or config["seed"] < group[config["inference"]][0]:
            group[config["inference"]] = (config["seed"], estimates)
    for model, group in first.items():
        found = {name: estimates for name, (_, estimates) in group.items()}
        running = {name: estimates for name, estimates in found.items() if "running" in estimates}
        if running:
            page.draw(
                f"samples-{_slug(model)}",
                f"{model}: the estimate of log p against the number of importance samples. One that still rises is a "
                "lower bound, not log p.",
                lambda ax, running=running: plots.convergence(running, ax),
            )
        one, *others = running or [""]
        for other in others:
            pair = (running[one], running[other])
            if pair[0].sizes["datum"] == pair[1].sizes["datum"]:
                page.draw(
                    f"datum-{_slug(model)}-{other}",
                    f"{model}: log p of each datum, {other} against {one}; open where an estimate did not pass.",
                    lambda ax, pair=pair, names=(one, other): plots.per_datum(*pair, ax, names=names),
                    (6.4, 5.8),
                )


def _fits(page: _Page, places: Sequence[Path], rows: Sequence[Row]) -> None:
    """Samples, reconstructions, densities, responsibilities of the best fit of each model and data set."""
    best: dict[tuple[str, str], tuple[float, Path]] = {}
    for place in places:
        config = read_config(place)
        found = one_row(place / RESULTS).log_marginal if (place / RESULTS).is_file() else None
        value = -math.inf if found is None else found
        key = (_label(place, config), str(config["data"]))
        if key not in best or value > best[key][0]:
            best[key] = (value, place)
    for (model, _), (_, place) in best.items():
        try:
            fitted = load(place)
            data = load_data(**data_arguments(read_config(place)))
        except PpvaeError as error:
            page.warnings.append(f"Pictures of {model} are left out: {error}")
            continue
        _pictures(page, model, fitted, data)


def _pictures(page: _Page, model: str, fitted: Fit, data: Data) -> None:
    how, slug = f"{model} ({fitted.settings.inference})", _slug(model)
    if plots.is_image(tuple(data.event_shape)):
        drawn = sample(fitted, 64)
        page.draw(f"drawn-{slug}", f"{how}: means of 64 samples.", lambda ax: plots.image_grid(drawn.mean, ax), (5, 5))
        x = observations(data, "test", _SHOWN)
        recon = reconstruct(fitted, x)
        page.draw(
            f"reconstructed-{slug}",
            f"{how}: test data and, under each row, their reconstructions.",
            lambda ax: plots.reconstructions(x, recon.mean, ax),
            (5.5, 5.5),
        )
    elif tuple(data.event_shape) == (2,):
        page.draw(
            f"density-{slug}", f"{how}: p(x), with data.", lambda ax: plots.density(fitted, data.test, ax), (5.2, 4.6)
        )
    if hasattr(fitted.model, "responsibilities"):
        page.draw(
            f"responsibilities-{slug}",
            f"{how}: responsibilities p(k|x) of the test data, mixed from the components' colours.",
            lambda ax: plots.responsibilities(fitted.model, fitted.as_input(data.test), ax),
            (5.2, 4.6),
        )


def _warn(page: _Page, rows: Sequence[Row]) -> None:
    for group in lines(rows).values():
        for line in group:
            bad = line.mean(lambda row: row.khat_bad_fraction)
            if bad and not is_exact(line):
                page.warnings.append(
                    f"{_who(line)}: for {100 * bad:.0f}% of the data the importance-sampled estimate did not pass (k̂, "
                    "effective samples): there it is a lower bound (≥)."
                )
    if len({(row.data, row.treatment) for row in rows}) > 1:
        page.warnings.append(
            "Log p of different data, or of other treatments of the same data, cannot be compared: each has a table of "
            "its own."
        )
    page.warnings.append(
        "No such diagnostic sees a mode of the posterior that q never visits: k̂ and the effective sample size judge "
        "the draws there are."
    )


def reading(rows: Sequence[Row]) -> list[str]:
    """The results in plain sentences, with their numbers (nats/datum, ± one standard error)."""
    out = []
    for (data, treatment), group in lines(rows).items():
        best = group[0]
        value = best.mean(log_marginal)
        if value is None:
            continue
        bound = "at least " if is_bound(best) else ""
        out.append(f"On {data} ({treatment}) {_who(best)} has the highest log p, {bound}{value:.2f} nats/datum.")
        by_model: dict[str, list[Line]] = {}
        for line in group:
            by_model.setdefault(line.model, []).append(line)
        for model, strategies in by_model.items():
            out += [_against(model, strategies[0], other) for other in strategies[1:]]
            for line in strategies:
                elbo, log_p = line.mean(lambda row: row.elbo), line.mean(log_marginal)
                if elbo is not None and log_p is not None:
                    least = "" if is_exact(line) else "at least "
                    out.append(
                        f"Inference in {_who(line)} loses {least}{max(log_p - elbo, 0.0):.2f} nats/datum: log p "
                        f"{log_p:.2f}, ELBO {elbo:.2f}."
                    )
    return out


def _against(model: str, one: Line, other: Line) -> str:
    """What the better of two strategies gains in log p, and what it costs."""
    gain = (one.mean(log_marginal) or 0.0) - (other.mean(log_marginal) or 0.0)
    error = math.hypot(_error_of_mean(one), _error_of_mean(other))
    clear = f"more than {_CLEAR:g}" if gain > _CLEAR * error else f"less than {_CLEAR:g}"
    faster = [
        (what, (other.mean(cost) or 0.0) / max(one.mean(cost) or 0.0, 1e-9))
        for what, cost in (
            ("to train", lambda row: row.train_seconds),
            ("to infer new data", lambda row: row.infer_seconds_per_1000),
        )
    ]
    costs = ", ".join(f"{float(f'{ratio:.2g}'):g} times as long {what}" for what, ratio in faster)
    return (
        f"{Path(model).name}: {one.how} is {gain:.2f} ± {error:.2f} nats/datum above {other.how}, {clear} "
        f"standard errors; {other.how} takes {costs}."
    )


def _error_of_mean(line: Line) -> float:
    """Of the mean over seeds: their spread, or for one seed the sampling error alone."""
    spread = line.spread(log_marginal)
    if spread is not None:
        return spread / math.sqrt(len(line.rows))
    return line.sampling_error(lambda row: row.log_marginal_mc_se) or 0.0


def _who(line: Line) -> str:
    return f"{Path(line.model).name} under {line.how}"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _html(page: _Page, title: str, config: dict[str, Any], rows: Sequence[Row], command: str) -> str:
    """The page; whatever comes from outside is escaped."""
    options = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in config.items()
        if value not in (None, {}, [])
    )
    tables = "".join(_table(group) for group in lines(rows).values())
    words = "".join(f"<li>{escape(sentence)}</li>" for sentence in reading(rows))
    warnings = "".join(f"<li>{escape(sentence)}</li>" for sentence in page.warnings)
    pictures = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for _, caption, png in page.pictures
    )
    versions = ", ".join(f"{name} {value}" for name, value in _versions(page.run).items())
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(str(page.run))} · {escape(versions)}</p>",
        tables and f"<h2>Results</h2>{tables}<p>nats/datum; = exact, ≥ lower bound, ± sampling error.</p>",
        words and f"<h2>What they say</h2><ul>{words}</ul>",
        warnings and f"<h2>Warnings</h2><ul class='warn'>{warnings}</ul>",
        f"<h2>Pictures</h2>{pictures}",
        f"<h2>What was run</h2><table class='options'>{options}</table><p>Again: <code>{escape(command)}</code></p>",
    ]
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)} · ppvae</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style></head><body>{''.join(part for part in parts if part)}</body></html>\n"
    )


def _versions(run: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")).get("versions", {})


def _table(group: Sequence[Line]) -> str:
    titles, rows = filled(group)
    heads = "".join(f"<th>{escape(name)}</th>" for name in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f"{table_title(group)}, {len(group[0].rows)} seeds"
    return f"<div class='wide'><table><caption>{escape(caption)}</caption><tr>{heads}</tr>{body}</table></div>"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
.options td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.warn li{border-left:3px solid #D55E00;padding-left:.6rem;list-style:none;margin:.4rem 0}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}figcaption{color:#555}
code{background:#f4f4f4;padding:.1rem .3rem;overflow-wrap:anywhere}
@media print{figure,tr{break-inside:avoid}}
"""
