"""MNIST and the sets in its format."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from ppvae.catalogue import SOURCES
from ppvae.data.source import Raw, in_blocks
from ppvae.errors import PpvaeError
from ppvae.vision import reason, torchvision


@SOURCES.register("mnist", treatment="static")
def mnist(root: Path, seed: int) -> Raw:
    """MNIST: 70,000 handwritten digits of 28×28, flattened; the last 10,000 of train are valid."""
    return _images_of("MNIST", root)


@SOURCES.register("fashion-mnist", treatment="static")
def fashion_mnist(root: Path, seed: int) -> Raw:
    """Fashion-MNIST: 70,000 pieces of clothing, in MNIST's format and splits."""
    return _images_of("FashionMNIST", root)


@SOURCES.register("kmnist", treatment="static")
def kmnist(root: Path, seed: int) -> Raw:
    """Kuzushiji-MNIST: 70,000 cursive Japanese characters, in MNIST's format and splits."""
    return _images_of("KMNIST", root)


def _images_of(folder: str, root: Path) -> Raw:
    """Intensities / 255, flattened; the last 10,000 of train are valid."""
    x, y = images(folder, root)
    return in_blocks(x.flatten(1).float().div_(255), y, [50000, 10000, 10000])


def images(folder: str, root: Path) -> tuple[Tensor, Tensor]:
    """The images [70000, 28, 28] and labels [70000] of a set in MNIST's format, the test part last.

    `folder` is the class's name in torchvision; files lie in root/folder/raw, and are downloaded if absent.

    Raises:
        PpvaeError: a failed download, or damaged files.
    """
    raw = root / folder / "raw"
    dataset = getattr(torchvision().datasets, folder)
    files = [file.removesuffix(".gz") for file, _ in dataset.resources]
    remedy = f"put {', '.join(files)} into {str(raw)!r}, or name another data root by root= or PPVAE_DATA"
    if not all(os.path.isfile(raw / file) for file in files):
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the results of the command line
                dataset(root, download=True)
        except Exception as error:  # sockets, HTTP, gzip and the disk raise many kinds of errors
            raise PpvaeError(f"cannot download {folder} ({reason(error)}): {remedy}") from error
    try:
        parts = [dataset(root, train=train) for train in (True, False)]
    except Exception as error:  # torchvision checks the bytes by assert, view and look-ups
        raise PpvaeError(f"{folder} is damaged or unreadable ({reason(error)}): {remedy}") from error
    for part, size in zip(parts, (60000, 10000), strict=True):
        if part.data.shape != (size, 28, 28) or part.targets.shape != (size,) or part.targets.max() > 9:
            held = f"images {list(part.data.shape)}, labels {list(part.targets.shape)}"
            raise PpvaeError(f"{folder} is damaged ({held} instead of {size} of 28x28, 0 to 9): {remedy}")
    return torch.cat([part.data for part in parts]), torch.cat([part.targets for part in parts])
