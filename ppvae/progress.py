"""A progress bar with the bound and the time left, on a terminal only."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """`with Progress(None, total, "fit vae") as bar: bar.update(done, bound=-92.1)`.

    Args:
        show: None shows the bar only where stderr is a terminal.
        total: the number of units.
        what: a description of the work.
    """

    def __init__(self, show: bool | None, total: int, what: str) -> None:
        console = Console(stderr=True)
        show = console.is_terminal if show is None else show
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=console, disable=not show, transient=True)
        self.task = self.bar.add_task(what, total=total, note="")

    def update(self, done: int, *, bound: float | None = None, what: str = "") -> None:
        """Show that `done` units are done, and the bound in nats/datum or the current work."""
        self.bar.update(self.task, completed=done, note=what if bound is None else f"bound {bound:.2f} nats")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
