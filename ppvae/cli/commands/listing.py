"""`ppvae list`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from ppvae.catalogue import COMMANDS, FAMILIES, METHODS, MODELS, SOURCES, STRATEGIES
from ppvae.cli.printing import console


@COMMANDS.register("list", order=1)
def list_command(runs: bool = False, folder: str = "runs") -> None:
    """Name the models, strategies, families, objectives, gradients and data sets there are, or the runs.

    Args:
        runs: list the runs in a folder instead.
        folder: where the runs are.
    """
    from ppvae.runs.index import find
    from ppvae.variational.estimator import MEANING, TOGETHER

    if runs:
        table = Table(box=None, header_style="")
        for title in ("run", "what", "state", "log p(x), nats/datum"):
            table.add_column(title, overflow="fold")
        for found in find(folder):
            table.add_row(str(found.path), found.what, found.state, found.result)
        console.print(table)
        return
    objectives = {name: f"gradient: {', '.join(together)}" for name, together in TOGETHER.items()}
    entries: dict[str, dict[str, str]] = {
        "models": {name: MODELS.summary(name) for name in MODELS},
        "inference": {name: STRATEGIES.summary(name) for name in STRATEGIES},
        "family": {name: FAMILIES.summary(name) for name in FAMILIES},
        "objective": objectives,
        "gradient": {**MEANING},
        "log p(x)": {name: METHODS.summary(name) for name in METHODS},
        "data": {name: SOURCES.summary(name) for name in SOURCES},
    }
    for title, lines in entries.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, line in lines.items():
            table.add_row(f"  {name}", escape(line))
        console.print(table)
