"""torchvision, importable beside a torch build it was not compiled for, and its image sets.

A CPU build of torch beside a CUDA build of torchvision cannot load torchvision's compiled operators, and
`import torchvision` then stops at "operator torchvision::nms does not exist". Its data sets, transforms and
image grids need none of them, so declaring the names of the missing operators is enough.
"""

import contextlib
import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ppvae.errors import PpvaeError

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration lives as long as its Library


def torchvision() -> ModuleType:
    """The torchvision package, with `datasets` and `utils` imported.

    Where the builds of torch and torchvision match, this is `import torchvision` and nothing more. Where they
    do not, the operators missing at import are declared (not implemented: calling one still fails).

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision cannot be imported for another reason than a missing operator declaration.
    """
    try:
        return _import()
    except RuntimeError as error:
        missing = [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
        if not missing or "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in missing:
        library.define(schema)
    _declared.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # submodules of the failed import would stay half made
    return _import()


def _import() -> ModuleType:
    for name in ("torchvision.datasets", "torchvision.utils"):
        importlib.import_module(name)
    return sys.modules["torchvision"]


def images(folder: str, root: Path) -> tuple[Tensor, Tensor]:
    """The images [70000, 28, 28] and labels [70000] of a set in MNIST's format, the test part last.

    `folder` is the class's name in torchvision; files lie in root/folder/raw, and are downloaded if absent.

    Raises:
        PpvaeError: a failed download, or files that are not what they should be.
    """
    raw = root / folder / "raw"
    dataset = getattr(torchvision().datasets, folder)
    files = [file.removesuffix(".gz") for file, _ in dataset.resources]
    remedy = f"put {', '.join(files)} into {str(raw)!r}, or name another data root by root= or PPVAE_DATA"
    if not all(os.path.isfile(raw / file) for file in files):
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the command line's results
                dataset(root, download=True)
        except Exception as error:  # sockets, HTTP, gzip and the disk raise nearly anything
            raise PpvaeError(f"cannot download {folder} ({_reason(error)}): {remedy}") from error
    try:
        parts = [dataset(root, train=train) for train in (True, False)]
    except Exception as error:  # torchvision checks the bytes by assert, view and look-ups
        raise PpvaeError(f"{folder} is damaged or unreadable ({_reason(error)}): {remedy}") from error
    for part, size in zip(parts, (60000, 10000), strict=True):
        if part.data.shape != (size, 28, 28) or part.targets.shape != (size,) or part.targets.max() > 9:
            found = f"images {list(part.data.shape)}, labels {list(part.targets.shape)}"
            raise PpvaeError(f"{folder} is damaged ({found} instead of {size} of 28x28, 0 to 9): {remedy}")
    return torch.cat([part.data for part in parts]), torch.cat([part.targets for part in parts])


def omniglot(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Omniglot's background and evaluation sets, each as ink [N, 784] in [0, 1] and characters [N].

    Pages of 105×105 become 28×28 by averaging over areas. Characters are numbered in the order of their folders'
    names, those of the evaluation set after all of the background set's. The folders images_background and
    images_evaluation lie in root/omniglot-py; one that is absent is taken out of its archive there, which is
    downloaded if absent.

    Raises:
        PpvaeError: a failed download, or folders and images that are not what they should be.
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
            except Exception as error:  # sockets, HTTP, zipfile and the disk raise nearly anything
                raise PpvaeError(f"cannot download Omniglot ({_reason(error)}): {remedy}") from error
        try:
            characters = _characters(place / part)
            pages = [page for character in characters for page in character]
            y = torch.tensor([known + k for k, character in enumerate(characters) for _ in character])
            parts.append((_ink(pages), y))
        except Exception as error:  # PIL and the disk raise nearly anything
            raise PpvaeError(f"Omniglot is damaged or unreadable ({_reason(error)}): {remedy}") from error
        known += len(characters)
    background, evaluation = parts
    return background, evaluation


def _unpack(url: str, place: Path, part: str, md5: str) -> None:
    """Put the folder `part` of an archive into `place`, whole or not at all; download the archive if need be."""
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
    for character, found in zip(characters, images, strict=True):
        if not found:
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
    for start in range(0, len(pages), 256):  # so that full-size pages never lie in memory all at once
        block = []
        for page in pages[start : start + 256]:
            try:
                with Image.open(page) as image:
                    if image.size != (105, 105):
                        raise ValueError(f"{image.size[0]}x{image.size[1]} instead of 105x105")
                    block.append(torch.from_numpy(np.array(image.convert("L"))))
            except Exception as error:  # PIL has many ways to find a file damaged
                raise ValueError(f"{'/'.join(page.parts[-4:])}: {_reason(error)}") from error
        white = torch.stack(block).float() / 255
        small = shares @ (1 - white) @ shares.T
        ink[start : start + 256] = small.clamp(0, 1).flatten(1)  # rounding may leave 1 by a bit
    return ink


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
