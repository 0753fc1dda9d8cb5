"""The fits of a run, and the content of a report while it is collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppvae.data.dataset import Data
from ppvae.data.loading import load_data
from ppvae.errors import PpvaeError
from ppvae.report.page import Page, Picture
from ppvae.runs.evidence import read_evidence
from ppvae.runs.folder import EVIDENCE, RESULTS, data_arguments, read_config
from ppvae.runs.results import Row, one_row

#: inches; a figure as wide as this is a chart
CHART_WIDTH = 6.0


@dataclass(frozen=True)
class Entry:
    """A fit of the run: its folder, and its results where they exist."""

    place: Path
    config: dict[str, Any]
    row: Row | None
    evidence: xr.Dataset | None

    @classmethod
    def read(cls, place: Path) -> Entry:
        row = one_row(place / RESULTS) if (place / RESULTS).is_file() else None
        evidence = read_evidence(place / EVIDENCE) if (place / EVIDENCE).is_file() else None
        return cls(place, read_config(place), row, evidence)

    @property
    def label(self) -> str:
        """The name of the model in results."""
        return Path(self.row.model if self.row else str(self.config["name"])).name

    @property
    def key(self) -> tuple[str, str]:
        """Model and data."""
        return self.label, str(self.config["data"])


@dataclass
class Gathered:
    """The page while it is collected, and the data sets that were loaded for it."""

    page: Page
    loaded: dict[str, Data] = field(default_factory=dict)

    def draw(
        self, name: str, caption: str, paint: Callable[[Axes], object], size: tuple[float, float] = (7, 4.2)
    ) -> None:
        """Add a picture that `paint` draws."""
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        self.keep(name, caption, figure)

    def keep(self, name: str, caption: str, figure: Figure) -> None:
        buffer = BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        self.page.pictures.append(Picture(name, caption, buffer.getvalue(), figure.get_figwidth() >= CHART_WIDTH))

    def data(self, config: dict[str, Any]) -> Data:
        """The data of a fit.

        Raises:
            PpvaeError: they were made in Python, or no longer exist.
        """
        arguments = data_arguments(config)
        if "name" not in arguments:
            raise PpvaeError("the data were made in Python")
        key = repr(arguments)
        if key not in self.loaded:
            self.loaded[key] = load_data(**arguments)
        return self.loaded[key]


def folders(place: Path) -> list[Path]:
    return list(place.iterdir()) if place.is_dir() else []
