"""Files that libraries write: whatever each raises where the disk refuses becomes one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ppvae.errors import PpvaeError
from ppvae.runs.files import write_with

NUMBERS = {"a": torch.zeros(5000)}
WRITE: dict[str, Callable[[Path], object]] = {
    "torch.save": lambda path: torch.save(NUMBERS, path),
    "safetensors": lambda path: save_file(NUMBERS, path),
    "text": lambda path: path.write_text(5000 * "numbers"),
}


@pytest.mark.parametrize("library", WRITE)
def test_a_file_cut_short_by_the_disk_leaves_nothing(
    library: str, tmp_path: Path, limited: Callable[[int], None]
) -> None:
    path = tmp_path / "numbers"
    path.write_text("before")
    limited(2000)
    with pytest.raises(PpvaeError, match=r"cannot write .*numbers, .*choose another place") as caught:
        write_with(path, WRITE[library])
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["numbers"]
    assert path.read_text() == "before"
