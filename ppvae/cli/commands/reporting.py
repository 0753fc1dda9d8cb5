"""`ppvae report`."""

from __future__ import annotations

from pathlib import Path

from ppvae.catalogue import COMMANDS


@COMMANDS.register("report", order=6)
def report_command(run: str) -> None:
    """Write report.html of a run: what was run, the table, the pictures, and what they say.

    Args:
        run: folder of a comparison, or of a fit that has been evaluated.
    """
    from ppvae.report.write import write_report

    print(write_report(Path(run)))
