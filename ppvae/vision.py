"""torchvision, also where it was compiled for another build of torch.

A CPU build of torch cannot load the compiled operators of a CUDA build of torchvision, and `import torchvision`
then fails with "operator torchvision::nms does not exist". Its data sets, transforms and image grids need none of
these operators, so that it is enough to declare the missing names.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
DECLARED: list[torch.library.Library] = []  # a declaration exists as long as its Library


def torchvision() -> ModuleType:
    """The torchvision package, with `datasets` and `utils` imported.

    Where the builds of torch and torchvision match, this is only `import torchvision`. Where they do not, the
    missing operators are declared but not implemented: a call of one still fails.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision cannot be imported, and not because of a missing operator.
    """
    try:
        return import_parts()
    except RuntimeError as error:
        missing = [schema for name, schema in SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
        if not missing or "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in missing:
        library.define(schema)
    DECLARED.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # else submodules of the failed import would stay incomplete
    return import_parts()


def import_parts() -> ModuleType:
    """Import what is used of torchvision."""
    for name in ("torchvision.datasets", "torchvision.utils"):
        importlib.import_module(name)
    return sys.modules["torchvision"]


def reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
