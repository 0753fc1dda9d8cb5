"""Omniglot: handwritten characters of 50 alphabets."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppvae.catalogue import SOURCES
from ppvae.data.source import Raw, permutation
from ppvae.errors import PpvaeError
from ppvae.vision import reason, torchvision


def read_omniglot(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Omniglot's background and evaluation sets, each as ink [N, 784] in [0, 1] and characters [N].

    Pages of 105×105 become 28×28 by averaging over areas. Characters are numbered in the order of their folders'
    names, those of the evaluation set after all of the background set's. The folders images_background and
    images_evaluation lie in root/omniglot-py; an absent one is extracted from its archive there, which is
    downloaded if absent.

    Raises:
        PpvaeError: a failed download, or damaged folders and images.
    """
    dataset, place = torchvision().datasets.Omniglot, root / "omniglot-py"
    archives = ", ".join(f"{part}.zip" for part in dataset.zips_md5)
    remedy = f"put {archives} or the folders in them into {str(place)!r}, or name another data root by root= or "
    remedy += f"PPVAE_DATA; {dataset.download_url_prefix} has them"
    parts, known = [], 0
    for part, md5 in dataset.zips_md5.items():
        if not os.path.isdir(place / part):
            try:
                _unpack(f"{dataset.download_url_prefix}/{part}.zip", place, part, md5)
            except Exception as error:  # sockets, HTTP, zipfile and the disk raise many kinds of errors
                raise PpvaeError(f"cannot download Omniglot ({reason(error)}): {remedy}") from error
        try:
            characters = _characters(place / part)
            pages = [page for character in characters for page in character]
            y = torch.tensor([known + k for k, character in enumerate(characters) for _ in character])
            parts.append((_ink(pages), y))
        except Exception as error:  # PIL and the disk raise many kinds of errors
            raise PpvaeError(f"Omniglot is damaged or unreadable ({reason(error)}): {remedy}") from error
        known += len(characters)
    background, evaluation = parts
    return background, evaluation


def _unpack(url: str, place: Path, part: str, md5: str) -> None:
    """Put the folder `part` of an archive into `place`, completely or not at all; download the archive if absent."""
    os.makedirs(place, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as aside, contextlib.redirect_stdout(sys.stderr):
        torchvision().datasets.utils.download_and_extract_archive(url, place, aside, f"{part}.zip", md5)
        os.rename(Path(aside, part), place / part)


def _characters(folder: Path) -> list[list[Path]]:
    """The images of each character, all in the order of their names: torchvision takes the disk's order."""
    characters = [c for a in sorted(folder.iterdir()) if a.is_dir() for c in sorted(a.iterdir()) if c.is_dir()]
    if not characters:
        raise ValueError(f"{folder.name} has no folders Alphabet/character01 in it")
    images = [sorted(p for p in c.glob("*.png") if not p.name.startswith(".")) for c in characters]
    for character, pages in zip(characters, images, strict=True):
        if not pages:
            raise ValueError(f"{'/'.join(character.parts[-3:])} has no .png in it")
    return images


def _ink(pages: list[Path]) -> Tensor:
    """Black on white pages of 105×105 as ink [N, 784] in [0, 1]: means over 28×28 equal areas."""
    from PIL import Image

    edges = torch.linspace(0, 105, 29, dtype=torch.float64)
    pixel = torch.arange(105)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    shares = (overlap.clamp(min=0) * 28 / 105).float()  # [28, 105]: rows sum to 1
    ink = torch.empty(len(pages), 784)
    for start in range(0, len(pages), 256):  # so that not all full-size pages are in memory at once
        block = []
        for page in pages[start : start + 256]:
            try:
                with Image.open(page) as image:
                    if image.size != (105, 105):
                        raise ValueError(f"{image.size[0]}x{image.size[1]} instead of 105x105")
                    block.append(torch.from_numpy(np.array(image.convert("L"))))
            except Exception as error:  # PIL raises many kinds of errors for a damaged file
                raise ValueError(f"{'/'.join(page.parts[-4:])}: {reason(error)}") from error
        white = torch.stack(block).float() / 255
        small = shares @ (1 - white) @ shares.T
        ink[start : start + 256] = small.clamp(0, 1).flatten(1)  # by rounding a value may be slightly above 1
    return ink


@SOURCES.register("omniglot", treatment="static")
def omniglot(root: Path, seed: int) -> Raw:
    """Characters of 50 alphabets: ink in [0, 1], 28×28, flattened. Labels are the numbers of the characters: those
    of the evaluation set, which is test, continue after those of the background set. The last 2,000 (or 15%, if that is
    less) of a fixed permutation of the background set are valid."""
    (x, y), (test, test_y) = read_omniglot(root)
    order = permutation(len(x))
    size = min(2000, len(x) * 15 // 100)
    if not size:
        raise PpvaeError(f"Omniglot's background set has only {len(x)} images: it needs at least 7")
    train, valid = order[:-size], order[-size:]
    return Raw(
        {"train": x[train], "valid": x[valid], "test": test},
        {"train": y[train], "valid": y[valid], "test": test_y},
    )
