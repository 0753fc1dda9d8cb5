"""The HTML of a report: one file without external resources; all text from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ppvae.report import citation, scatter
from ppvae.report.table import filled, title
from ppvae.runs.averages import Line


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption; a wide one is a chart, which scrolls on a narrow screen so that its text stays large."""

    name: str
    caption: str
    png: bytes
    wide: bool


@dataclass
class Page:
    """The content of a report; `scatters` are (caption, HTML)."""

    title: str
    subtitle: str
    command: str
    options: Mapping[str, Any]
    tables: list[Sequence[Line]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    scatters: list[tuple[str, str]] = field(default_factory=list)
    sprites: dict[str, scatter.Sprite | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    release: str | None = None


def html(page: Page) -> str:
    """The whole page."""
    tables = "".join(_table(group) for group in page.tables)
    note = "<p>nats/datum; = exact, ≥ lower bound, ± sampling error.</p>"
    parts = [
        f"<h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p>",
        tables and f"<h2>Results</h2>{tables}{note}",
        _section("What they say", _list(page.sentences)),
        _section("Datum by datum", "".join(_figure(escape(caption), plot) for caption, plot in page.scatters)),
        _section("Warnings", _list(page.warnings, "warn")),
        _section("Pictures", "".join(map(_picture, page.pictures))),
        _section("What was run", _options(page)),
        _section("How to cite", _citation(page.release)),
    ]
    style = _STYLE
    script = ""
    if page.scatters:
        style += scatter.STYLE + "\n".join(sprite.css for sprite in page.sprites.values() if sprite)
        script = f"<script>{scatter.SCRIPT}</script>"
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(page.title)} · ppvae</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{style}{_PRINT}</style></head><body>{''.join(parts)}{script}</body></html>\n"
    )


def _section(name: str, inside: str) -> str:
    return inside and f"<h2>{name}</h2>{inside}"


def _list(sentences: Sequence[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return items and f"<ul class='{kind}'>{items}</ul>"


def _wide(inside: str, name: str) -> str:
    """Content that scrolls sideways on a narrow screen, also by keyboard."""
    return f"<div class='wide' tabindex='0' role='region' aria-label='{escape(name)}'>{inside}</div>"


def _table(group: Sequence[Line]) -> str:
    titles, rows = filled(group)
    heads = "".join(f"<th>{escape(name)}</th>" for name in titles)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    seeds = len(group[0].rows)
    caption = f"{title(group)}, {seeds} seed{'' if seeds == 1 else 's'}"
    return _wide(f"<table><caption>{escape(caption)}</caption><tr>{heads}</tr>{body}</table>", "results")


def _cell(text: str) -> str:
    """The text of a cell; a line may break after a / between names."""
    return escape(text).replace("/", "/<wbr>")


def _figure(caption: str, inside: str) -> str:
    return f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"


def _picture(picture: Picture) -> str:
    caption = escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{base64.b64encode(picture.png).decode()}">'
    return _figure(caption, _wide(image, picture.name) if picture.wide else image)


def _options(page: Page) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in page.options.items()
        if value not in (None, {}, [])
    )
    return _wide(f"<table class='options'>{rows}</table>", "options") + (
        f"<p>Again: <code>{escape(page.command)}</code></p>"
    )


def _citation(release: str | None) -> str:
    return (
        f"<p>{escape(citation.MESSAGE)}</p><p>{escape(citation.as_text(release))}</p>"
        f"{_wide(f'<pre>{escape(citation.as_bibtex(release))}</pre>', 'BibTeX')}"
    )


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff;
overflow-wrap:anywhere}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
.wide{overflow-x:auto}table{overflow-wrap:normal;margin:1rem 0;border-collapse:collapse;
font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
.options td{text-align:left;white-space:normal;min-width:8rem;overflow-wrap:anywhere}.options th{vertical-align:top}
.warn{padding-left:0}.warn li{border-left:3px solid #D55E00;padding-left:.6rem;list-style:none;margin:.4rem 0}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}figcaption{color:#555}
code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{padding:.6rem;margin:0}
@media(max-width:40rem){body{margin-top:1rem}ul{padding-left:1.2rem}.wide img{max-width:none;width:34rem}}
"""
_PRINT = """
@media print{body{max-width:none;margin:0;font-size:10pt}figure,tr,pre,li{break-inside:avoid}
h1,h2,caption{break-after:avoid}.wide{overflow:visible}.wide img,img{max-width:100%;max-height:20cm;width:auto}
table{font-size:7.5pt}th,td{padding:.15rem .3rem;white-space:normal}pre{white-space:pre-wrap}.tip{display:none}
.scatter{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
