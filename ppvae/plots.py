"""Pictures of results: functions that draw on an Axes and return it. One colour a strategy, everywhere."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from ppvae import require
from ppvae._torchvision import torchvision
from ppvae.data import Data
from ppvae.errors import PpvaeError
from ppvae.fitted import Fit
from ppvae.marginal import log_marginal
from ppvae.model import Model, overrides
from ppvae.results import Row
from ppvae.table import Line, lines

#: from Okabe & Ito (2008), told apart by the colour-blind too; without their yellow, too pale for a line on white
_COLOURS = {"amortized": "#0072B2", "exact": "#E69F00", "per-datapoint": "#009E73", "semi-amortized": "#CC79A7"}
_OTHERS = ("#D55E00", "#56B4E9", "#000000")
_PALETTE = (*_COLOURS.values(), *_OTHERS)
#: side of the smallest flat event that is taken for an image unasked: four numbers are more often a flower
_SMALLEST_IMAGE = 8
#: points a side of a density, fewer where each has to be estimated, and from how many samples
_GRID, _GRID_EXACT, _GRID_SAMPLES = 60, 200, 100

History = Sequence[Mapping[str, float]]


def colour(inference: str) -> str:
    """The colour of a strategy, whatever else is registered; those not of the zoo share three by their name."""
    return _COLOURS.get(inference) or _OTHERS[zlib.crc32(inference.encode()) % len(_OTHERS)]


def bounds(group: Sequence[Line], ax: Axes) -> Axes:
    """ELBO (open) and log p̂ (filled) of each model and strategy on one treatment, a pair of dots a seed.

    The distance between the two is what inference loses; bars are sampling errors.
    """
    for y, line in enumerate(reversed(group)):
        tone = colour(line.inference)
        for i, row in enumerate(line.rows):
            height = y + 0.22 * (i - (len(line.rows) - 1) / 2)
            if row.elbo is None or row.log_marginal is None:
                continue
            ax.plot([row.elbo, row.log_marginal], [height, height], color=tone, linewidth=1, alpha=0.6)
            ax.errorbar(row.elbo, height, xerr=row.elbo_mc_se, fmt="o", mfc="white", color=tone, ms=5, capsize=2)
            ax.errorbar(row.log_marginal, height, xerr=row.log_marginal_mc_se, fmt="o", color=tone, ms=5, capsize=2)
    ax.set_yticks(range(len(group)), [f"{Path(line.model).name}\n{line.how}" for line in reversed(group)])
    ax.set_ylim(-0.6, len(group) - 0.4)
    ax.set_xlabel("nats/datum  (open: ELBO, filled: log p̂; larger is better)")
    ax.set_title(f"{group[0].data} ({group[0].treatment}), {group[0].rows[0].split} data")
    ax.grid(axis="x", alpha=0.3)
    return ax


def comparison(rows: Sequence[Row]) -> Figure:
    """One panel of `bounds` a data treatment.

    Raises:
        PpvaeError: there are no rows.
    """
    groups = list(lines(rows).values())
    if not groups:
        raise PpvaeError("there are no rows to draw: run ppvae compare first")
    height = 1.2 + sum(0.75 * len(group) + 0.9 for group in groups)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups])[:, 0]
    for group, ax in zip(groups, axes, strict=True):
        bounds(group, ax)
    return figure


def bound_against_seconds(histories: Mapping[str, Sequence[History]], ax: Axes) -> Axes:
    """Validation bound against seconds of training, a line a seed.

    The y axis shows nine tenths of every line's evaluations at least; where first values fall far below these they
    are cut off, and the axis says so.

    Args:
        histories: strategy → the `Fit.history` of each seed.

    Raises:
        PpvaeError: no history holds a finite bound.
    """
    low, high, lowest = math.inf, -math.inf, math.inf
    for inference, seeds in histories.items():
        for seed, history in enumerate(seeds):
            seconds = [entry["seconds"] for entry in history]
            bound = np.array([entry["valid_bound"] for entry in history], dtype=float)
            marker = "o" if len(bound) == 1 else None
            ax.plot(seconds, bound, color=colour(inference), linewidth=1, alpha=0.8, marker=marker, ms=4,
                    label=None if seed else inference)  # fmt: skip
            finite = bound[np.isfinite(bound)]
            if len(finite):
                low, lowest = min(low, float(np.quantile(finite, 0.1))), min(lowest, float(finite.min()))
                high = max(high, float(finite.max()))
    if not math.isfinite(low):
        raise PpvaeError("no history holds a validation bound to draw: train with an evaluation")
    cut = high - lowest > 2 * (high - low) > 0
    if cut:
        margin = 0.1 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(left=0)
    ax.set_xlabel("training (seconds)")
    ax.set_ylabel(f"validation bound (nats/datum{'; lower values cut off' if cut else ''})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def per_datum(one: xr.Dataset, other: xr.Dataset, ax: Axes, *, names: tuple[str, str]) -> Axes:
    """log p̂ of each datum under `other` (up) against `one` (across), with the diagonal and standard errors.

    A point has the colour of the strategy that gives the datum more, and is open where either estimate is not ok. The
    title has the mean difference ± its standard error over these pairs, data of no density under either left out.

    Args:
        one, other: what `log_marginal` returns for the same data.
        names: of the two strategies.

    Raises:
        PpvaeError: the two are of different numbers of data, or no datum has a finite estimate under both.
    """
    sizes = one.sizes["datum"], other.sizes["datum"]
    if sizes[0] != sizes[1]:
        raise PpvaeError(f"{names[0]} has {sizes[0]} data and {names[1]} {sizes[1]}: estimate both on the same data")
    finite = np.isfinite(one["log_marginal"].values) & np.isfinite(other["log_marginal"].values)
    if not finite.any():
        raise PpvaeError(f"no datum has a finite estimate under both {names[0]} and {names[1]}: nothing can be drawn")
    one, other = one.isel(datum=finite), other.isel(datum=finite)
    across, up = one["log_marginal"].values, other["log_marginal"].values
    ok = one["ok"].values & other["ok"].values
    difference = up - across
    for name, ahead in zip(names, (difference < 0, difference >= 0), strict=True):
        for mask, face in ((ahead & ok, colour(name)), (ahead & ~ok, "white")):
            ax.errorbar(
                across[mask], up[mask], xerr=one["log_marginal_se"].values[mask],
                yerr=other["log_marginal_se"].values[mask], fmt="o", color=colour(name), mfc=face, ms=4, linewidth=0.8,
            )  # fmt: skip
    ax.axline((float(across[0]), float(across[0])), slope=1, color="0.5", linewidth=1, zorder=0)
    mean = f"{difference.mean():+.3f}".replace("-", "−")
    error = f" ± {difference.std(ddof=1) / math.sqrt(len(difference)):.3f}" if len(difference) > 1 else ""
    left_out = "" if finite.all() else f" ({(~finite).sum()} data left out)"
    ax.set_title(f"{names[1]} − {names[0]}: {mean}{error} nats/datum{left_out}")
    ax.set_xlabel(f"log p̂(x) under {names[0]} (nats)")
    ax.set_ylabel(f"log p̂(x) under {names[1]} (nats)")
    handles = [Line2D([], [], ls="", marker="o", color=colour(name), label=f"{name} higher") for name in names]
    if not ok.all():
        handles.append(Line2D([], [], ls="", marker="o", color="0.3", mfc="white", label="not ok (k̂, ESS)"))
    ax.legend(handles=handles)
    return ax


def convergence(estimates: Mapping[str, xr.Dataset], ax: Axes, exact: float | None = None) -> Axes:
    """Mean of log p̂ over data from the first K importance samples, for K up to S; a straight line needed none.

    Markers are open where fewer than half of the data are ok at S: that line cannot be taken to have arrived.

    Args:
        estimates: strategy → what `log_marginal` returns.
        exact: mean of log p over these data, where it is known.
    """
    doubtful = False
    for name, found in estimates.items():
        if "running" not in found:
            ax.axhline(float(found["log_marginal"].mean()), color=colour(name), linewidth=1.2, label=f"{name}, exact")
            continue
        share = float(found["ok"].mean())
        doubtful |= share < 0.5
        ax.plot(
            found["num_draws"].values, found["running"].mean("datum").values, "o-", color=colour(name), ms=4,
            mfc="white" if share < 0.5 else colour(name), linewidth=1.2, label=f"{name}, {share:.0%} of data ok",
        )  # fmt: skip
    if exact is not None:
        ax.axhline(exact, color="black", linestyle="--", linewidth=1, label="exact log p", zorder=0)
    ax.set_xscale("log")
    ax.set_xlabel("importance samples a datum")
    ax.set_ylabel(f"mean log p̂ (nats/datum{'; open: most data not ok' if doubtful else ''})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def is_image(event: Sequence[int]) -> bool:
    """Whether data of this event shape are pictures, when nobody says: [H, W], [1 or 3, H, W], or flat, square, 8×8."""
    return _image_shape(event) is not None and (len(event) > 1 or event[0] >= _SMALLEST_IMAGE**2)


def image_grid(x: Tensor, ax: Axes, columns: int = 8, shape: Sequence[int] | None = None) -> Axes:
    """Samples or reconstructions as a grid, row by row; black and white are 0 and 1, or the extremes of other values.

    Args:
        x: images [N, H, W], [N, 1 or 3, H, W], or flat ones, square where `shape` does not say.
        columns: images in a row.
        shape: of one image.

    Raises:
        PpvaeError: x holds no images.
    """
    return _show_grid(_unit(_images(x, shape)), ax, columns)


def reconstructions(x: Tensor, recon: Tensor, ax: Axes, columns: int = 8, shape: Sequence[int] | None = None) -> Axes:
    """Rows of originals, each above the row of their reconstructions.

    Args:
        x, recon: as many images each, as `image_grid` has them.

    Raises:
        PpvaeError: they hold no images, or are not of one shape.
    """
    if x.shape != recon.shape:
        raise PpvaeError(f"x {list(x.shape)} and recon {list(recon.shape)} differ: give as many of each, of one shape")
    columns = min(require.count("columns", columns), len(x))
    both = _unit(_images(torch.cat([x.to(recon), recon]), shape))
    rows = math.ceil(len(x) / columns)
    blank = both.new_full((rows * columns - len(x), *both.shape[1:]), 0.5)
    paired = [torch.cat([half, blank]).unflatten(0, (rows, columns)) for half in both.chunk(2)]
    _show_grid(torch.stack(paired, 1).flatten(0, 2), ax, columns)
    step = both.shape[-2] + 1  # make_grid leaves a pixel between
    ax.set_yticks(
        [1 + (both.shape[-2] - 1) / 2 + step * row for row in range(2 * rows)],
        ["data", "reconstruction"] * rows,
        fontsize="small",
    )
    return ax


def _image_shape(event: Sequence[int]) -> tuple[int, ...] | None:
    """(channels, height, width) of an event, if it is an image."""
    if len(event) == 1 and event[0] and math.isqrt(event[0]) ** 2 == event[0]:
        return 1, math.isqrt(event[0]), math.isqrt(event[0])
    if len(event) == 2:
        return 1, *event
    return tuple(event) if len(event) == 3 and event[0] in (1, 3) else None


def _images(x: Tensor, shape: Sequence[int] | None) -> Tensor:
    """x as images [N, C, H, W] on the CPU."""
    event = _image_shape(x.shape[1:] if shape is None else shape)
    if event is None or not len(x) or x[0].numel() != math.prod(event):
        asked = "" if shape is None else f" of shape {list(shape)}"
        raise PpvaeError(
            f"{list(x.shape)} holds no images{asked}: they are [N, H, W], [N, 1 or 3, H, W], or flat and square; else "
            "give shape=(H, W)"
        )
    return x.detach().cpu().float().reshape(-1, *event)


def unit_images(x: Tensor) -> Tensor:
    """x as images [N, C, H, W] from 0 to 1, as `image_grid` shows them.

    Raises:
        PpvaeError: x holds no images.
    """
    return _unit(_images(x, None))


def _unit(images: Tensor) -> Tensor:
    """Into 0 … 1: unchanged where they are there already, else by their common extremes."""
    low, high = float(images.min()), float(images.max())
    return images if low >= 0 and high <= 1 else (images - low) / max(high - low, 1e-12)


def _show_grid(images: Tensor, ax: Axes, columns: int) -> Axes:
    columns = min(require.count("columns", columns), len(images))
    grid = torchvision().utils.make_grid(images, nrow=columns, padding=1, pad_value=0.5)
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def density(fit: Fit, data: Data | Tensor, ax: Axes) -> Axes:
    """p(x) of data of two numbers as filled contours, with the data: exact where the model has it, else estimated.

    An estimate from 100 importance samples is rough where there are no data, as q was not trained there.

    Args:
        data: points [N, *event] to draw; of a `Data` its test data.

    Raises:
        PpvaeError: a datum is not two numbers.
    """
    event = fit.settings.event_shape
    if math.prod(event) != 2:
        raise PpvaeError(f"a density is drawn of data of two numbers, and these have event shape {list(event)}")
    points = fit.as_input(data.test if isinstance(data, Data) else data).flatten(1).cpu()
    low, high = points.amin(0), points.amax(0)
    margin = 0.15 * (high - low).clamp_min(1e-6)
    exact = overrides(fit.model, "log_prob")
    size = _GRID_EXACT if exact else _GRID
    axes = [torch.linspace(float(a), float(b), size) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = torch.cartesian_prod(*axes).reshape(-1, *event)
    found = log_marginal(fit, grid, num_samples=_GRID_SAMPLES, method="exact" if exact else "importance")
    p = np.exp(found["log_marginal"].values).reshape(size, size).T
    # equal steps of √p: in equal steps of p, one narrow peak would hide whatever is broad beside it
    levels = max(p.max(), 1e-300) * np.linspace(0, 1, 13) ** 2
    contours = ax.contourf(axes[0], axes[1], p, levels=levels, norm=PowerNorm(0.5), cmap="Blues")
    ax.figure.colorbar(
        contours, ax=ax, format="%.2g", label="p(x)" if exact else f"p̂(x), {_GRID_SAMPLES} importance samples"
    )
    ax.scatter(*points.T, s=6, color="black", alpha=0.5, linewidths=0, label=f"{len(points)} data")
    ax.set_xlabel("x₁")
    ax.set_ylabel("x₂")
    made = fit.settings
    ax.set_title(f"{type(fit.model).__name__}, {made.inference}, {made.data} ({made.treatment})")
    return ax


def responsibilities(model: Model, x: Tensor, ax: Axes) -> Axes:
    """Data as points in the mixture of the components' colours that p(k | x) gives.

    Data of more than two numbers are shown by their first two principal components.

    Args:
        model: one with a method responsibilities(x) → p(k | x) [B, K].
        x: data [N, *event], with two numbers each at least.

    Raises:
        PpvaeError: a model without responsibilities, or data that do not span a plane.
    """
    of = getattr(model, "responsibilities", None)
    if of is None:
        raise PpvaeError(f"{type(model).__name__} has no responsibilities(x): only a mixture can be drawn so")
    x = x.to(next(model.parameters()))
    with torch.no_grad():
        weights = of(x).cpu().double().numpy()
    points = x.flatten(1).cpu().double().numpy()
    if min(points.shape) < 2:
        raise PpvaeError(f"x {list(x.shape)} spans no plane: give two data at least, of two numbers at least")
    names = ["x₁", "x₂"]
    if points.shape[1] > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full").fit(points)
        points = pca.transform(points)
        shares = enumerate(pca.explained_variance_ratio_, 1)
        names = [f"principal component {i} ({share:.0%} of variance)" for i, share in shares]
    tones = [_PALETTE[k % len(_PALETTE)] for k in range(weights.shape[1])]
    mixed = weights @ np.array([to_rgb(tone) for tone in tones])
    ax.scatter(*points.T, c=mixed.clip(0, 1), s=14, linewidths=0)
    share = weights.mean(0)
    handles = [
        Line2D([], [], ls="", marker="o", color=tone, label=f"{k}: {share[k]:.0%} of data")
        for k, tone in enumerate(tones)
    ]
    ax.legend(handles=handles, title="component", loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax


def gradient_variance(found: xr.Dataset, ax: Axes) -> Axes:
    """Variance in φ of each gradient estimator (filled), and what it comes to at equal time (open), on a log axis.

    The open dot is variance × seconds over the seconds of the reference, which is reparam where it is there, else the
    least noisy: the mean of n estimates has an nth of the variance and costs n times as much. Beside each stand its
    variance in multiples of the reference's and its seconds; the title compares the reference with the score function,
    where it is there, else with the noisiest. Bars are standard errors over data.

    Args:
        found: what `ppvae.gradient_variance` returns.

    Raises:
        PpvaeError: no such dataset, or no variance in it that a log axis can show.
    """
    if not isinstance(found, xr.Dataset) or "variance_phi" not in found:
        raise PpvaeError("found has no variance_phi: give what ppvae.gradient_variance returns")
    # exact ones, and those that are not finite, have no place on the axis
    variance = found["variance_phi"].values
    found = found.isel(gradient=np.isfinite(variance) & (variance > 0)).sortby("variance_phi", ascending=False)
    names = [str(name) for name in found["gradient"].values]
    if not names:
        raise PpvaeError("no estimator has a variance above 0, which a log axis could show")
    variance, errors, seconds = (found[name].values for name in ("variance_phi", "variance_phi_se", "seconds"))
    base = names.index("reparam") if "reparam" in names else len(names) - 1
    other = names.index("score") if "score" in names else 0
    for y, unbiased in enumerate(found["unbiased"].values):
        tone = _PALETTE[0] if unbiased else _OTHERS[0]
        at_equal_time = variance[y] * seconds[y] / seconds[base]
        ax.plot([variance[y], at_equal_time], [y, y], color=tone, linewidth=1, alpha=0.6)
        ax.plot(at_equal_time, y, "o", mfc="white", color=tone, ms=9)
        # a bar that reaches 0 would have no end
        error = errors[y] if errors[y] < variance[y] else None
        ax.errorbar(variance[y], y, xerr=error, fmt="o", color=tone, ms=5, capsize=2)
        text = f"{_times(variance[y] / variance[base])},  {1e3 * seconds[y]:.2g} ms{'' if unbiased else ',  biased'}"
        ax.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize="small")
    ax.set_xscale("log")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(
        f"variance of one datum's gradient in φ (nats²)\nfilled: one estimate; open: in the time of {names[base]}"
    )
    title = f"{found.attrs.get('objective', '')}, {found.attrs.get('num_particles', '?')} draws a datum"
    if base != other:
        title = f"{names[other]} has {_times(variance[other] / variance[base])} the variance of {names[base]}\n{title}"
    ax.set_title(title, fontsize="medium")
    ax.grid(axis="x", alpha=0.3)
    return ax


def _times(ratio: float) -> str:
    """A ratio to two digits, or whole: 1.3×, 0.24×, 834×."""
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.2g}×"
