"""`ppvae sample`."""

from __future__ import annotations

from pathlib import Path

from ppvae.catalogue import COMMANDS
from ppvae.cli.printing import trained_fit
from ppvae.errors import PpvaeError


@COMMANDS.register("sample", order=5)
def sample_command(run: str, num_samples: int = 64, out: str | None = None, seed: int = 0) -> None:
    """Draw data from a trained model.

    Args:
        run: folder of a saved fit.
        num_samples: how many.
        out: a new file: .png (images), .csv or .npy (default: samples.png or samples.csv in the run).
        seed: of the draws.
    """
    import numpy as np

    from ppvae.plots.images import image_grid, is_image
    from ppvae.runs.files import free_file, replacing, write_text
    from ppvae.tasks.sampling import sample

    place = Path(run)
    fitted = trained_fit(place)
    square = is_image(tuple(fitted.settings.event_shape))
    target = free_file(
        out if out is not None else place / f"samples.{'png' if square else 'csv'}", ".png", ".csv", ".npy"
    )
    if target.suffix.lower() == ".png" and not square:
        shape = fitted.settings.event_shape
        raise PpvaeError(f"a datum of {fitted.settings.data} has shape {shape}, which is no image: use .csv or .npy")
    drawn = sample(fitted, num_samples, seed=seed)
    with replacing(target) as scratch:
        if target.suffix.lower() == ".png":
            from matplotlib.figure import Figure

            figure = Figure(figsize=(6, 6), layout="constrained")
            image_grid(drawn.mean, figure.subplots())
            figure.savefig(scratch, dpi=150, format="png")
        elif target.suffix.lower() == ".csv":
            lines = (",".join(f"{value:.9g}" for value in row) for row in drawn.x.flatten(1).tolist())
            write_text(scratch, "\n".join(lines) + "\n")
        else:
            with scratch.open("wb") as file:
                np.save(file, drawn.x.cpu().numpy())
    print(f"{num_samples} samples: {target}")
