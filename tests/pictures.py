"""What tests of pictures share, besides the `ax` of conftest.py."""

import io
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def drawn(ax: Axes) -> None:
    """Rendered for real, with warnings as errors."""
    cast(Figure, ax.figure).savefig(io.BytesIO(), format="png")


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]
