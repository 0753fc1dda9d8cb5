"""Torch data sets, and other objects with a length and items, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ppvae import require
from ppvae.data.preparation import Preparation
from ppvae.data.readers import SPLITS
from ppvae.data.source import Raw
from ppvae.errors import PpvaeError


def is_dataset(value: object) -> bool:
    """Whether a value is a map-style data set, or parts of one, rather than text or an array."""
    if isinstance(value, str | bytes | bytearray | np.ndarray | Tensor):
        return False
    if isinstance(value, Dataset | DataLoader):  # an unsuitable one is refused later, with a message
        return True
    return hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")


def from_datasets(value: Any, divisor: float | None = None) -> tuple[str, Raw]:
    """The items of a map-style data set, or of those in a mapping or tuple, and the class's name.

    Args:
        value: a data set; or (train, test), or (train, valid, test), or a mapping with these keys. An item is a
            tensor, a NumPy array, a PIL image or a number, or a tuple of one of these and a label. Images — PIL's,
            8-bit ones and [1, 3 or 4, height, width] — are flattened, channels first, and 8-bit ones divided by
            255 unless all hold 0 and 1 only. Labels are kept if all are whole numbers.
        divisor: of 8-bit ones, where other data have decided it.

    Raises:
        PpvaeError: it is not a map-style data set or is empty, or an item raises an error, has an unsupported type or
            differs in shape or type from the first.
    """
    parts = _parts(value)
    name = type(next(iter(parts.values()))).__name__
    lengths = {key: _length(f"data {name!r}{'' if key == 'all' else f', {key}'}", p) for key, p in parts.items()}
    first: _Item | None = None
    x: dict[str, Tensor] = {}
    y: dict[str, Tensor] = {}
    for key, dataset in parts.items():
        labels: list[int] = []
        for index in range(lengths[key]):
            where = f"data {name!r}, {'' if key == 'all' else f'{key} '}item {index}"
            item, label = _item(where, dataset, index)
            first = first or item
            if item.kind != first.kind:
                raise PpvaeError(
                    f"{where} is {item}, unlike the first, {first}: give all items the same shape and type"
                )
            if key not in x:
                x[key] = _room(name, lengths[key], item.x)
            x[key][index] = item.x
            if label is not None:
                labels.append(label)
        if len(labels) == lengths[key]:
            y[key] = torch.tensor(labels)
    if first and first.eight_bit and divisor is None:
        divisor = 255.0 if any(bool((rows > 1).any()) for rows in x.values()) else 1.0
    divisor = divisor if first and first.eight_bit and divisor is not None else 1.0
    if divisor != 1:
        x = {key: rows.div_(divisor) for key, rows in x.items()}
    if first and first.flat:
        x = {key: rows.reshape(len(rows), -1) for key, rows in x.items()}
    return name, Raw(x, y if y.keys() == x.keys() else None, learned=Preparation("real", divisor=divisor))


@dataclass(frozen=True, eq=False)
class _Item:
    """The values of an item; whether they are intensities from 0 to 255; whether they are flattened."""

    x: Tensor
    eight_bit: bool
    flat: bool

    @property
    def kind(self) -> tuple[torch.Size, bool, bool]:
        """The shape and type that all items must share."""
        return self.x.shape, self.eight_bit, self.flat

    def __str__(self) -> str:
        return f"{list(self.x.shape)}{' of 8 bits' if self.eight_bit else ''}{' as an image' if self.flat else ''}"


def _parts(value: Any) -> dict[str, Any]:
    parts = {"all": value}
    if isinstance(value, Mapping):
        parts = dict(value)
        if set(parts) not in ({"train", "test"}, set(SPLITS)):
            held = require.show(list(parts))
            raise PpvaeError(f"data sets are for {held}: a mapping needs train and test, or train, valid and test")
        parts = {split: parts[split] for split in SPLITS if split in parts}
    elif isinstance(value, tuple):
        if len(value) not in (2, 3):
            raise PpvaeError(f"data are a tuple of {len(value)}: it needs train and test, or train, valid and test")
        parts = dict(zip(SPLITS if len(value) == 3 else ("train", "test"), value, strict=True))
    for key, part in parts.items():
        kind, where = type(part).__name__, "data" if key == "all" else f"data {key!r}"
        if isinstance(part, IterableDataset):
            raise PpvaeError(f"{where} is {kind}, an IterableDataset: give a map-style one, such as list(it)")
        if isinstance(part, DataLoader):
            raise PpvaeError(f"{where} is a DataLoader: give the data set in it, its .dataset")
        if isinstance(part, Mapping | tuple) or not is_dataset(part):
            raise PpvaeError(f"{where} must be a torch data set, not {kind}: it needs __len__ and __getitem__")
    return parts


def _length(where: str, dataset: Any) -> int:
    if not hasattr(type(dataset), "__len__"):
        raise PpvaeError(f"{where} has no __len__: a map-style data set has __len__ and __getitem__")
    try:
        size = len(dataset)
    except Exception as error:
        raise PpvaeError(f"{where} raises {reported(error)} in __len__: correct its __len__") from error
    if not size:
        raise PpvaeError(f"{where} is empty: give at least one item")
    return size


def _item(where: str, dataset: Any, index: int) -> tuple[_Item, int | None]:
    """One item, and its label if that is a whole number."""
    try:
        item = dataset[index]
    except Exception as error:
        raise PpvaeError(f"{where} raises {reported(error)}: correct the data set") from error
    label = None
    if isinstance(item, tuple):
        if len(item) not in (1, 2):
            raise PpvaeError(f"{where} is a tuple of {len(item)}: give (item, label), or the item alone")
        item, label = item[0], _whole(item[1]) if len(item) == 2 else None
    try:
        return _values(where, item), label
    except PpvaeError:
        raise
    except Exception as error:  # sparse and meta tensors, and images that are read only here
        raise PpvaeError(f"{where} raises {reported(error)} when read: give plain numbers") from error


def _values(where: str, item: Any) -> _Item:
    from PIL import Image

    picture = isinstance(item, Image.Image)
    if isinstance(item, Image.Image):
        if item.mode not in ("1", "L", "RGB", "RGBA"):
            way = "convert it to 'L' or 'RGB', or to a float tensor in [0, 1]"
            raise PpvaeError(f"{where} is an image of mode {item.mode!r}: {way}")
        item = np.asarray(item)
        item = item.transpose(2, 0, 1) if item.ndim == 3 else item
    if isinstance(item, np.ndarray | np.generic | bool | int | float):
        array = np.asarray(item)
        if array.dtype.kind not in "biuf":
            raise PpvaeError(f"{where} is of {array.dtype}: give real numbers")
        eight_bit = array.dtype == np.uint8
        with np.errstate(over="ignore"):  # overflow becomes infinite, which the check of all values refuses
            x = torch.from_numpy(np.array(array, dtype=wide_enough(array.dtype), order="C"))
    elif isinstance(item, Tensor):
        if item.is_complex():
            raise PpvaeError(f"{where} is of {item.dtype}: give real numbers")
        eight_bit = item.dtype == torch.uint8
        x = item.detach().to("cpu")
        x = x.to(torch.float32 if x.dtype in _NARROW else torch.float64)
    else:
        kinds = "a tensor, a NumPy array, a PIL image or a number, alone or in (item, label)"
        raise PpvaeError(f"{where} is {type(item).__name__}: it must be {kinds}")
    eight_bit = eight_bit and x.dim() > 1
    flat = picture or eight_bit or x.dim() == 0 or (x.dim() == 3 and x.shape[0] in (1, 3, 4))
    return _Item(x, eight_bit, flat)


#: dtypes whose values single precision holds
_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16)


def wide_enough(dtype: np.dtype) -> type[np.floating]:
    """The floating dtype that holds the values of another."""
    return np.float32 if np.can_cast(dtype, np.float32) else np.float64


def _whole(label: Any) -> int | None:
    if isinstance(label, np.ndarray | Tensor) and label.ndim == 0:
        label = label.item()
    whole = isinstance(label, int | np.integer)
    return int(label) if whole and -(2**63) <= int(label) < 2**63 else None


def _room(name: str, size: int, x: Tensor) -> Tensor:
    try:
        return torch.empty(size, *x.shape, dtype=x.dtype)
    except (RuntimeError, MemoryError) as error:
        raise PpvaeError(
            f"data {name!r}: {size} items of {list(x.shape)} do not fit into memory: take fewer"
        ) from error


def reported(error: Exception) -> str:
    return f"{type(error).__name__} ({require.shorten(' '.join(str(error).split()), 150)})"
