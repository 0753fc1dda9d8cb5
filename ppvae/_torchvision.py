"""torchvision, importable beside a torch build it was not compiled for, and its image sets.

A CPU build of torch beside a CUDA build of torchvision cannot load torchvision's compiled operators, and
`import torchvision` then stops at "operator torchvision::nms does not exist". Its data sets, transforms and
image grids need none of them, so declaring the names of the missing operators is enough.
"""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

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


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
