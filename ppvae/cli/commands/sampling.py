"""`ppvae sample`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.cli.printing import trained_fit
from ppvae.errors import PpvaeError
from ppvae.options import option


@register("sample", order=5, subject="run", required=True)
class SampleCommand(Command):
    """Draw data from a trained model."""

    words: ClassVar = {"run": "folder"}

    folder: str | None = option(None, "folder of a saved fit")
    num_samples: int = option(64, "the number of samples", at_least=1)
    out: str | None = option(
        None,
        "a new file: .png (images), .csv or .npy; where None, samples.png or samples.csv in the run",
    )
    seed: int = option(0, "of the draws", at_least=0)

    def run(self) -> None:
        import numpy as np

        from ppvae.plots.images import image_grid, is_image
        from ppvae.runs.files import free_file, replacing, write_text
        from ppvae.tasks.sampling import sample

        assert self.folder is not None
        place = Path(self.folder)
        fit = trained_fit(place)
        shape = tuple(fit.event_shape)
        square = is_image(shape)
        default = place / f"samples.{'png' if square else 'csv'}"
        target = free_file(default if self.out is None else self.out, ".png", ".csv", ".npy")
        kind = target.suffix.lower()
        if kind == ".png" and not square:
            raise PpvaeError(
                f"a datum of {fit.data.name} has shape {list(shape)}, which is not an image: use .csv or .npy"
            )
        drawn = sample(fit, self.num_samples, seed=self.seed)
        with replacing(target) as scratch:
            if kind == ".png":
                from matplotlib.figure import Figure

                figure = Figure(figsize=(6, 6), layout="constrained")
                image_grid(drawn.mean, figure.subplots())
                figure.savefig(scratch, dpi=150, format="png")
            elif kind == ".csv":
                lines = (",".join(f"{value:.9g}" for value in row) for row in drawn.x.flatten(1).tolist())
                write_text(scratch, "\n".join(lines) + "\n")
            else:
                with scratch.open("wb") as file:
                    np.save(file, drawn.x.cpu().numpy())
        print(f"{self.num_samples} samples: {target}")
