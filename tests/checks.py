"""What tests of several wings hold: one line of refusal, equal splits, a compiler that is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ppvae.data.dataset import Data
from ppvae.data.readers import SPLITS
from ppvae.errors import PpvaeError

compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)


def identical(a: Data, b: Data) -> bool:
    return all(torch.equal(a.splits[split], b.splits[split]) for split in SPLITS)


def refusal(action: Callable[[], object]) -> str:
    """The message of the PpvaeError that `action` must raise: one line of bearable length."""
    with pytest.raises(PpvaeError) as caught:
        action()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 600
    return message


def refused(named: str, call: Callable[[], Any]) -> None:
    with pytest.raises(PpvaeError) as caught:
        call()
    assert named.strip() in str(caught.value)
    assert "\n" not in str(caught.value)
