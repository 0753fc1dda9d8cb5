"""`ppvae list`."""

from __future__ import annotations

from ppvae.catalogue import CATALOGUES, register
from ppvae.cli.command import Command
from ppvae.cli.printing import console
from ppvae.options import option


@register("list", order=1)
class ListCommand(Command):
    """Name the models, strategies, families, objectives, gradients and data sets there are, or the runs."""

    runs: bool = option(False, "list the runs in a folder instead")
    folder: str = option("runs", "where the runs are")

    def run(self) -> None:
        from rich.markup import escape
        from rich.table import Table

        if self.runs:
            _list_runs(self.folder)
            return
        for title, catalogue in CATALOGUES.items():
            if title == "commands":
                continue  # ppvae --help has them
            table = Table(title=title, title_justify="left", show_header=False, box=None)
            for name in catalogue:
                table.add_row(f"  {name}", escape(catalogue.summary(name)))
            console().print(table)


def _list_runs(folder: str) -> None:
    from rich.table import Table

    from ppvae.runs.index import find

    table = Table(box=None, header_style="")
    for title in ("run", "what", "state", "log p(x), nats/datum"):
        table.add_column(title, overflow="fold")
    for found in find(folder):
        table.add_row(str(found.path), found.what, found.state, found.result)
    console().print(table)
