"""What tests of several wings hold: one line of refusal, equal splits, a compiler that is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from ppvae.data.dataset import Data
from ppvae.data.readers import SPLITS
from ppvae.errors import PpvaeError

compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)


def offline(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in that folder without a network; returns the data root, which is not there yet."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("tests have no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("PPVAE_DATA", str(place / "root"))
    monkeypatch.chdir(place)
    return place / "root"


def identical(a: Data, b: Data) -> bool:
    return all(torch.equal(a.splits[split], b.splits[split]) for split in SPLITS)


def refusal(action: Callable[[], object]) -> str:
    """The message of the PpvaeError that `action` must raise: one line, neither cut short nor long."""
    with pytest.raises(PpvaeError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert 10 < len(message) < 600
    return message


def refused(named: str, call: Callable[[], Any]) -> None:
    assert named.strip() in refusal(call)
