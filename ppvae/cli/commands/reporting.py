"""`ppvae report`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.options import option


@register("report", order=6, subject="run", required=True)
class ReportCommand(Command):
    """Write report.html of a run: what was run, the table, the pictures, and what they say."""

    words: ClassVar = {"run": "folder"}

    folder: str | None = option(None, "folder of a comparison, or of a fit that has been evaluated")

    def run(self) -> None:
        from ppvae.report.write import write_report

        assert self.folder is not None
        print(write_report(Path(self.folder)))
