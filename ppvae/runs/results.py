"""results.json: the results of a comparison, one row per fit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.runs.files import write_text
from ppvae.runs.folder import versions

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One fit of `results.json`. Bounds in nats/datum; `*_mc_se` is sampling error given the data, `*_data_se`
    the spread over data; None where not computed or meaningless.
    """

    model: str
    inference: str
    seed: int
    data: str
    treatment: str
    split: str
    num_data: int
    elbo: float | None
    elbo_mc_se: float | None
    iwae_bound: float | None
    log_marginal: float | None
    log_marginal_mc_se: float | None
    log_marginal_data_se: float | None
    log_marginal_method: str
    num_samples: int
    ess_median: float | None
    ess_min: float | None
    khat_bad_fraction: float | None
    approximation_gap: float | None
    amortization_gap: float | None
    train_seconds: float
    infer_seconds_per_1000: float
    num_parameters: int
    family: str | None = None

    @property
    def how(self) -> str:
        """Strategy and family, as tables and pictures show them."""
        return label(self.inference, self.family)


def label(inference: str, family: str | None) -> str:
    """A strategy and, where it is not the model's own, a family."""
    return inference if family is None else f"{inference} · {family}"


def write_results(path: Path, rows: Sequence[Row], seconds: float) -> None:
    """Write results.json, schema 1; it is replaced at once, so that a reader never finds half a file."""
    document = {
        "schema": SCHEMA,
        "versions": versions(),
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_results(path: str | os.PathLike) -> list[Row]:
    """The rows of a results.json.

    Raises:
        PpvaeError: the file does not exist, is not JSON, or has another schema or rows of other fields.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise PpvaeError(f"{path} has schema {document['schema']!r}, this version reads {SCHEMA}")
        return [Row(**row) for row in document["rows"]]
    except PpvaeError:
        raise
    except OSError as error:
        raise PpvaeError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PpvaeError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def has_rows(path: Path, rows: Sequence[Row]) -> bool:
    """Whether these rows are the first of the file."""
    try:
        return path.is_file() and read_results(path)[: len(rows)] == rows
    except PpvaeError:
        return False


def read_seconds(path: Path) -> float:
    """The seconds of the comparison so far; 0 if the file does not have them."""
    try:
        return require.positive("seconds", json.loads(path.read_text(encoding="utf-8"))["seconds"], zero=True)
    except (OSError, LookupError, TypeError, ValueError):
        return 0.0


def one_row(path: Path) -> Row:
    """The row of a results.json that has exactly one.

    Raises:
        PpvaeError: as `read_results`, or the file has no row or several.
    """
    rows = read_results(path)
    if len(rows) != 1:
        raise PpvaeError(f"{path} is damaged: it has {len(rows)} rows, not the one of its fit")
    return rows[0]
