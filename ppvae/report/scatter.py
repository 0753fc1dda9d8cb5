"""A scatter plot of data as inline SVG: a point shows its datum when the pointer is close, or when it has focus."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
import torch
import xarray as xr
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ppvae import plots
from ppvae.runs.results import label

#: the most points in one picture, so that a page stays small and a pointer can reach each
MOST = 200
#: pixels: the longer side of a stored image, and its width on the page
_SIDE, _SHOWN = 48, 112
#: images in a row of a sprite
_COLUMNS = 20
#: the most values shown of a datum that is not an image
_VALUES = 8
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 400, 106, 16, 12, 64
#: families of one strategy share its colour and differ in shape
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "M-4-4h8v8h-8z",
    "M0-5.5l5.5 5.5-5.5 5.5-5.5-5.5z",
    "M0-5.5l5.5 9.5h-11z",
)


@dataclass(frozen=True)
class Series:
    """The evidence of one strategy and family, with its name, colour and shape in a picture."""

    name: str
    colour: str
    shape: str
    evidence: xr.Dataset


def series(evidence: Sequence[tuple[str, str | None, xr.Dataset]]) -> list[Series]:
    """The series of (strategy, family, evidence): one colour per strategy, one shape per family."""
    families = list(dict.fromkeys(family for _, family, _ in evidence))
    return [
        Series(
            label(inference, family),
            plots.colour(inference),
            _SHAPES[families.index(family) % len(_SHAPES)],
            one,
        )
        for inference, family, one in evidence
    ]


@dataclass(frozen=True)
class Sprite:
    """Many small images joined into one, which a page holds once."""

    name: str
    css: str

    @classmethod
    def of(cls, name: str, x: Tensor) -> Sprite | None:
        """The first images of x [N, *event]; None where x holds no images."""
        if not plots.is_image(tuple(x.shape[1:])):
            return None
        images = plots.unit_images(x[:MOST])
        step = math.ceil(max(images.shape[-2:]) / _SIDE)
        images = images[..., ::step, ::step]
        high, wide = images.shape[-2:]
        rows = math.ceil(len(images) / _COLUMNS)
        blank = images.new_zeros(rows * _COLUMNS - len(images), *images.shape[1:])
        grid = torch.cat([images, blank]).unflatten(0, (rows, _COLUMNS)).permute(0, 3, 1, 4, 2)
        pixels = (255 * grid.reshape(rows * high, _COLUMNS * wide, -1)).round().byte().numpy()
        buffer = BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "png", optimize=True)
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        tall = round(_SHOWN * high / wide)
        return cls(
            name,
            f".{name}{{width:{_SHOWN}px;height:{tall}px;background:url({url}) 0 0/{_COLUMNS * _SHOWN}px "
            f"{rows * tall}px;image-rendering:pixelated}}",
        )


@dataclass(frozen=True)
class _Axis:
    """Maps numbers to positions along one side of the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        ticks = MaxNLocator(6).tick_values(self.low, self.high)
        return [float(tick) for tick in ticks if self.low <= tick <= self.high]


def _axis(values: np.ndarray, start: float, end: float) -> _Axis:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return _Axis(low - margin, high + margin, start, end)


def scatter(group: Sequence[Series], x: Tensor | None, sprite: Sprite | None, split: str = "test") -> str | None:
    """The loss by inference on each datum, log p − ELBO, against its log p, as HTML; None if no number is finite.

    Args:
        group: evidence of the same data, of several rows.
        x: these data, if they are available.
        sprite: their images, if they are images.
        split: the split that they are from.
    """
    most = max(MOST // max(len(group), 1), 1)
    points = [one.evidence.isel(datum=slice(most)) for one in group]
    log_p = [evidence["log_marginal"].values for evidence in points]
    lost = [evidence["log_marginal"].values - evidence["elbo"].values for evidence in points]
    finite = [np.isfinite(values) for values in lost]
    if not any(mask.any() for mask in finite):
        return None
    across = _axis(np.concatenate([v[m] for v, m in zip(log_p, finite, strict=True)]), _LEFT, _WIDTH - _RIGHT)
    up = _axis(np.concatenate([*(v[m] for v, m in zip(lost, finite, strict=True)), [0.0]]), _HEIGHT - _BOTTOM, _TOP)
    marks = "".join(
        f"<g fill='{one.colour}' stroke='{one.colour}'>"
        + "".join(
            _point(one, evidence.isel(datum=i), i, across(log_p[k][i]), up(lost[k][i]), x, split)
            for i in np.flatnonzero(finite[k]).tolist()
        )
        + "</g>"
        for k, (one, evidence) in enumerate(zip(group, points, strict=True))
    )
    doubtful = any(not evidence["ok"].values[mask].all() for evidence, mask in zip(points, finite, strict=True))
    pixels = f"<div class='pixels {sprite.name}' data-columns='{_COLUMNS}'></div>" if sprite else ""
    return (
        f"<div class='scatter'>{_legend(group, doubtful)}<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='group' "
        f"aria-label='log p minus ELBO of each datum against its log p; arrow keys go from datum to datum'>"
        f"{_frame(across, up)}{marks}</svg><div class='tip' hidden aria-hidden='true'>{pixels}<p></p></div></div>"
    )


def _point(one: Series, datum: xr.Dataset, i: int, across: float, up: float, x: Tensor | None, split: str) -> str:
    ok = bool(datum["ok"])
    log_p, elbo = float(datum["log_marginal"]), float(datum["elbo"])
    words = [
        f"{split} datum {i}, {one.name}",
        f"log p {'' if ok else '≥ '}{_fixed(log_p)} ± {_fixed(float(datum['log_marginal_se']))}",
        f"ELBO {_fixed(elbo)}",
        f"lost {_number(log_p - elbo, 3)}",
    ]
    if not ok:
        words.append("weights did not pass")
    if x is not None and i < len(x) and not plots.is_image(tuple(x.shape[1:])):
        words.append(f"x = {_values(x[i])}")
    mark = "" if ok else " class='open'"
    return (
        f"<path d='{one.shape}' transform='translate({across:.1f} {up:.1f})'{mark} "
        f"data-datum='{i}' tabindex='-1' role='img' aria-label='{escape('; '.join(words))}'/>"
    )


def _values(x: Tensor) -> str:
    values = [_number(value, 3) for value in x.flatten()[:_VALUES].tolist()]
    return f"({', '.join(values)}{', …' if x.numel() > _VALUES else ''})"


def _legend(group: Sequence[Series], doubtful: bool) -> str:
    entries = [(one.shape, one.colour, one.colour, one.name) for one in group]
    if doubtful:
        entries.append((_SHAPES[0], "white", "#444", "open: weights did not pass, log p is a lower bound"))
    return (
        "<p class='legend'>"
        + "".join(
            f"<span><svg viewBox='-7 -7 14 14' aria-hidden='true'><path d='{shape}' fill='{fill}' stroke='{stroke}' "
            f"stroke-width='1.5'/></svg>{escape(name)}</span> "
            for shape, fill, stroke, name in entries
        )
        + "</p>"
    )


def _frame(across: _Axis, up: _Axis) -> str:
    """Grid, numbers and names of the axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    out = [f"<path class='zero' d='M{_LEFT} {up(0.0):.1f}H{right}'/>"]
    for tick in across.ticks():
        at = across(tick)
        out.append(f"<path class='grid' d='M{at:.1f} {_TOP}V{bottom}'/>")
        out.append(f"<text x='{at:.1f}' y='{bottom + 20}' text-anchor='middle'>{_number(tick)}</text>")
    for tick in up.ticks():
        at = up(tick)
        out.append(f"<path class='grid' d='M{_LEFT} {at:.1f}H{right}'/>")
        out.append(f"<text x='{_LEFT - 8}' y='{at + 4:.1f}' text-anchor='end'>{_number(tick)}</text>")
    middle = (_TOP + bottom) / 2
    out.append(f"<text x='{(_LEFT + right) / 2}' y='{_HEIGHT - 10}' text-anchor='middle'>log p̂(x) (nats)</text>")
    out.append(
        f"<text transform='translate(18 {middle}) rotate(-90)' text-anchor='middle'>log p̂(x) − ELBO (nats)</text>"
    )
    return "".join(out)


def _number(value: float, digits: int = 10) -> str:
    return f"{value:.{digits}g}".replace("-", "−")


def _fixed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


STYLE = """
.scatter{position:relative;max-width:46rem}.scatter>svg{display:block;width:100%;height:auto;touch-action:pan-y}
.scatter text{font-size:13px;fill:#333}.grid{stroke:#e4e4e4}.zero{stroke:#666}
.scatter [data-datum]{fill-opacity:.75;stroke-width:1.5;outline:none}.scatter .open{fill:#fff}
.scatter .same,.scatter .lit{stroke:#000;fill-opacity:1}.scatter .lit{stroke-width:3}
.legend{margin:.3rem 0}.legend span{display:inline-block;margin-right:1rem}
.legend svg{width:1em;height:1em;vertical-align:-.1em;margin-right:.3em}
.tip{position:absolute;z-index:1;max-width:15rem;padding:.5rem;background:#fff;border:1px solid #888;
border-radius:4px;box-shadow:0 2px 8px #0003;pointer-events:none;font-size:.85rem;line-height:1.35}
.tip[hidden]{display:none}.tip p{margin:0;white-space:pre-line;overflow-wrap:anywhere}
.pixels{margin-bottom:.4rem;outline:1px solid #bbb}
@media(max-width:40rem){.scatter text{font-size:19px}}
"""

#: the pointer selects the closest point and need not hit it, as points overlap and fingers are wide
SCRIPT = """
for (const plot of document.querySelectorAll('.scatter')) {
  const svg = plot.querySelector(':scope > svg'), tip = plot.querySelector('.tip');
  const pixels = tip.querySelector('.pixels'), words = tip.querySelector('p');
  const points = [...svg.querySelectorAll('[data-datum]')].map(mark => {
    const {e, f} = mark.transform.baseVal.consolidate().matrix;
    return {mark, x: e, y: f};
  }).sort((a, b) => a.x - b.x);
  const hide = () => {
    tip.hidden = true;
    for (const {mark} of points) mark.classList.remove('same', 'lit');
  };
  const show = point => {
    hide();
    const datum = point.mark.dataset.datum;
    for (const {mark} of points) mark.classList.toggle('same', mark.dataset.datum === datum);
    point.mark.classList.add('lit');
    words.textContent = point.mark.getAttribute('aria-label').replaceAll('; ', '\\n');
    tip.hidden = false;
    tip.style.left = 0;
    if (pixels) {
      const columns = pixels.dataset.columns;
      const left = datum % columns * pixels.offsetWidth, top = Math.floor(datum / columns) * pixels.offsetHeight;
      pixels.style.backgroundPosition = `${-left}px ${-top}px`;
    }
    const box = plot.getBoundingClientRect(), at = point.mark.getBoundingClientRect();
    const x = at.left - box.left + at.width / 2, y = at.top - box.top;
    tip.style.left = Math.max(0, Math.min(x - tip.offsetWidth / 2, box.width - tip.offsetWidth)) + 'px';
    tip.style.top = (y > box.height / 2 ? y - tip.offsetHeight - 10 : y + at.height + 10) + 'px';
  };
  const near = event => {
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = point => Math.hypot(point.x - p.x, point.y - p.y);
    const best = points.reduce((a, b) => far(b) < far(a) ? b : a);
    far(best) < 30 ? show(best) : rest();
  };
  const rest = () => {
    const point = points.find(({mark}) => mark === document.activeElement);
    point ? show(point) : hide();
  };
  svg.addEventListener('pointermove', near);
  svg.addEventListener('pointerdown', near);
  // lifting a finger also makes it leave
  svg.addEventListener('pointerleave', event => event.pointerType === 'touch' || rest());
  document.addEventListener('pointerdown', event => svg.contains(event.target) || rest());
  svg.addEventListener('focusout', hide);
  svg.addEventListener('focusin', rest);
  svg.addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1}[event.key];
    const from = points.findIndex(({mark}) => mark === document.activeElement);
    if (event.key === 'Escape') hide();
    if (!step || from < 0) return;
    event.preventDefault();
    points[Math.max(0, Math.min(from + step, points.length - 1))].mark.focus();
  });
  points[0].mark.setAttribute('tabindex', '0');
}
"""
