"""Torch data sets handed over in Python."""

import math
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import identical, refusal
from conftest import Untouched
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ppvae import vision
from ppvae.data.dataset import Data
from ppvae.data.loading import load_data


class Items(Dataset):
    """A function of the index, asked for so many."""

    def __init__(self, size: Any, item: Any) -> None:
        self.size, self.item = size, item

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def gathered(item: Any, size: int = 20) -> Data:
    return load_data(Items(size, item))


def rows(data: Data) -> Tensor:
    """All rows, in the order of their first value."""
    x = torch.cat([*data.splits.values()])
    return x[x.flatten(1)[:, 0].argsort()]


# Splits and labels


def test_a_set_is_split_as_a_file_is(tmp_path: Path) -> None:
    x = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 7
    np.savez(tmp_path / "x.npz", x=x.numpy(), y=y.numpy())
    file = load_data(tmp_path / "x.npz")
    for dataset in (TensorDataset(x, y), ConcatDataset([TensorDataset(x[:9], y[:9]), TensorDataset(x[9:], y[9:])]),
                    Subset(TensorDataset(x, y), range(40)), list(zip(x, y, strict=True))):  # fmt: skip
        data = load_data(dataset)
        assert identical(data, file)
        assert (data.name, data.source) == (type(dataset).__name__, None)
        assert (data.treatment, data.likelihood) == ("real", "gaussian")
        assert data.labels is not None
        assert file.labels is not None
        assert all(torch.equal(data.labels[split], file.labels[split]) for split in data.labels)
        assert load_data(data) is data
    assert load_data(TensorDataset(x)).labels is None
    assert identical(load_data(TensorDataset(x)), file)
    cut = load_data(TensorDataset(x, y), num_train=4, treatment="standardised")
    assert len(cut.train) == 4
    assert torch.equal(cut.test, load_data(tmp_path / "x.npz", treatment="standardised").test)


def test_three_sets_are_the_splits() -> None:
    x = torch.rand(30, 2)
    sets = [TensorDataset(x[i : i + 10], torch.arange(i, i + 10)) for i in (0, 10, 20)]
    mapping: Any = dict(zip(("test", "train", "valid"), (sets[2], sets[0], sets[1]), strict=True))
    for given in (tuple(sets), mapping):
        data = load_data(given)
        assert torch.equal(torch.cat([*data.splits.values()]), x)
        assert data.labels is not None
        assert torch.cat([*data.labels.values()]).tolist() == list(range(30))
        assert data.name == "TensorDataset"


def test_of_two_sets_the_first_gives_valid() -> None:
    x = torch.arange(60.0).reshape(-1, 1) / 100
    train, test = TensorDataset(x[:40], torch.arange(40)), TensorDataset(x[40:], torch.arange(40, 60))
    for given in ((train, test), {"test": test, "train": train}):
        data = load_data(given)
        assert [len(part) for part in data.splits.values()] == [34, 6, 20]
        assert torch.equal(data.test, x[40:])
        order = np.random.RandomState(20131220).permutation(40)  # a stream that NumPy has frozen
        assert torch.equal(data.train, x[order[:34]])
        assert torch.equal(data.valid, x[order[34:]])
        assert data.labels is not None
        for split, y in data.labels.items():
            assert torch.equal(y / 100, data.splits[split].flatten())


@pytest.mark.parametrize(
    "label",
    [int, np.int64, np.uint8, lambda i: torch.tensor(i), lambda i: torch.tensor(i, dtype=torch.uint8), np.array],
)
def test_whole_labels_are_kept(label: Any) -> None:
    data = gathered(lambda i: (torch.full((2,), i / 20), label(i)))
    assert data.labels is not None
    for split, y in data.labels.items():
        assert torch.equal(y, (data.splits[split][:, 0] * 20).round().long())


@pytest.mark.parametrize(
    "label", [float, str, lambda i: None, lambda i: torch.zeros(3).long(), lambda i: 2**70, lambda i: i or "first"]
)
def test_other_labels_are_left_out(label: Any) -> None:
    assert gathered(lambda i: (torch.full((2,), i / 20), label(i))).labels is None


def test_labels_are_of_all_sets_or_none() -> None:
    x = torch.rand(20, 2)
    assert load_data((TensorDataset(x, torch.arange(20)), TensorDataset(x))).labels is None
    assert load_data((TensorDataset(x), TensorDataset(x, torch.arange(20)))).labels is None


# Items


@pytest.mark.parametrize(
    ("item", "event"),
    [
        (float, (1,)),
        (lambda i: i, (1,)),
        (lambda i: (i, 0), (1,)),
        (np.float64, (1,)),
        (lambda i: torch.tensor(i), (1,)),
        (lambda i: np.full(3, i, dtype=">i4"), (3,)),
        (lambda i: np.full((3, 2), i, dtype=np.float64), (3, 2)),
        (lambda i: torch.full((3,), i, dtype=torch.uint8), (3,)),  # no image: numbers as they are
        (lambda i: torch.full((3,), float(i), requires_grad=True), (3,)),
        (lambda i: torch.full((3, 2), i, dtype=torch.int16), (3, 2)),
        (lambda i: torch.full((2, 3, 2), float(i)), (2, 3, 2)),
        (lambda i: torch.full((1, 3, 2), float(i)), (6,)),  # one channel: an image
        (lambda i: np.full((3, 3, 2), float(i)), (18,)),
        (lambda i: namedtuple("Pair", "x y")(torch.full((2,), float(i)), i), (2,)),
    ],
)
def test_kinds_of_items(item: Any, event: tuple[int, ...]) -> None:
    data = gathered(item)
    assert data.event_shape == event
    expected = torch.arange(20.0).reshape(-1, *(1 for _ in event)).expand(20, *event)
    assert torch.equal(rows(data), expected)
    assert not data.train.requires_grad
    assert data.train.dtype == torch.float32


@pytest.mark.parametrize("kind", ["PIL", "array", "tensor"])
def test_8_bit_images_become_intensities_in_a_vector(kind: str) -> None:
    pixels = np.arange(20 * 12).reshape(20, 3, 4).astype(np.uint8)
    form = {"PIL": Image.fromarray, "array": np.asarray, "tensor": torch.tensor}[kind]
    data = gathered(lambda i: (form(pixels[i]), i))
    assert torch.equal(rows(data), torch.tensor(pixels.reshape(20, 12)).float() / 255)
    assert data.treatment == "real"
    assert load_data(Items(20, lambda i: form(pixels[i])), treatment="static").likelihood == "bernoulli"


def test_colour_images_are_channels_first_as_totensor_has_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
    totensor = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    pictures, tensors = gathered(lambda i: Image.fromarray(pixels[i])), gathered(lambda i: totensor[i])
    assert identical(pictures, tensors)
    assert torch.equal(rows(tensors), totensor.flatten(1)[totensor.flatten(1)[:, 0].argsort()])


def test_images_of_0_and_1_only_are_binary() -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (20, 4, 5), dtype=np.uint8)
    for form in (np.asarray, lambda p: Image.fromarray(p.astype(bool)), lambda p: Image.fromarray(p)):
        data = gathered(lambda i, form=form: form(pixels[i]))
        assert (data.treatment, data.likelihood) == ("binary", "bernoulli")
        assert float(data.train.max()) == 1
        assert data.event_shape == (20,)
    halves = pixels[:10], pixels[10:] * 255  # of one set: an intensity of 1 is not ink in one part and 1/255 in another
    data = load_data(tuple(list(half) for half in halves))
    assert float(data.train.max()) == pytest.approx(1 / 255)
    assert float(data.test.max()) == 1


def test_a_torchvision_set_is_as_the_named_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = vision.torchvision().datasets.FakeData(size=20, image_size=(3, 4, 5), num_classes=3)
    data = load_data(fake)
    assert (data.name, data.event_shape) == ("FakeData", (60,))
    assert data.labels is not None
    assert 0 <= float(data.train.min()) < 0.1 < 0.9 < float(data.train.max()) <= 1
    first = np.asarray(fake[0][0]).transpose(2, 0, 1).reshape(-1) / 255
    assert (torch.cat([*data.splits.values()]) - torch.tensor(first)).abs().amax(1).min() < 1e-6


def test_random_transforms_are_drawn_from_the_seed(untouched: Untouched) -> None:
    noisy = Items(400, lambda i: torch.randn(5))
    with untouched():
        a, b, other = (load_data(noisy, seed=seed) for seed in (1, 1, 2))
    assert identical(a, b)
    assert not identical(a, other)
    x = torch.cat([*a.splits.values()])
    assert abs(x.mean()) < 5 / math.sqrt(2000)  # 5 standard errors
    assert abs(x.std() - 1) < 5 / math.sqrt(4000)


# Refusals


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(torch.eye(20))


class NoLength(Dataset):
    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(2)


def raises(index: int) -> Tensor:
    if index == 7:
        raise OSError("image 7\nis truncated")
    return torch.zeros(2)


def odd(other: Any) -> Any:
    return lambda i: other if i == 7 else torch.zeros(2, 3)


class Lazy(Image.Image):
    """An image that fails once it is read."""

    mode = "L"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()

    @property
    def __array_interface__(self) -> Any:
        raise OSError("image file is truncated")


EYE = list(torch.eye(20))


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        (Stream(), "data is Stream, an IterableDataset: give a map-style one, such as list(it)"),
        ((EYE, Stream()), "data 'test' is Stream, an IterableDataset"),
        (DataLoader(Items(20, float)), "data is a DataLoader: give the data set in it, its .dataset"),
        (NoLength(), "data 'NoLength' has no __len__"),
        (Items(0, float), "data 'Items' is empty"),
        ([], "data 'list' is empty"),
        ((EYE, []), "data 'list', test is empty"),
        (Items("9", float), "data 'Items' raises TypeError ('str' object cannot be interpreted as an integer)"),
        (Items(-1, float), "raises ValueError"),
        (Items(9, float), "data 'Items' has 9 rows: three splits need at least 10"),
        ((Items(6, float), Items(6, float)), "train has 6 rows: valid is taken from it and needs 7"),
        (Items(20, raises), "data 'Items', item 7 raises OSError (image 7 is truncated): correct the data set"),
        ((list(torch.rand(20, 2)), Items(20, raises)), "data 'list', test item 7 raises OSError"),
        (Items(20, [1.0] * 12), "item 0 raises TypeError"),
        (Items(20, ([0.0] * 12).__getitem__), "item 12 raises IndexError (list index out of range)"),
        (
            Items(20, odd(torch.zeros(3, 2))),
            "item 7 is [3, 2], unlike the first, [2, 3]: give all items the same shape and type",
        ),
        (Items(20, odd(torch.zeros(2, 3).byte())), "item 7 is [2, 3] of 8 bits as an image, unlike the first, [2, 3]"),
        ((EYE, list(torch.eye(19))), "test item 0 is [19], unlike the first, [20]"),
        (Items(20, odd(None)), "item 7 is NoneType: it must be a tensor, a NumPy array, a PIL image or a number"),
        (Items(20, odd([1.0, 2.0])), "item 7 is list"),
        (Items(20, odd({"x": 1})), "item 7 is dict"),
        (Items(20, odd("word")), "item 7 is str"),
        (Items(20, odd(("word", 1))), "item 7 is str"),
        (Items(20, odd((1, 2, 3))), "item 7 is a tuple of 3: give (item, label)"),
        (Items(20, odd(())), "item 7 is a tuple of 0"),
        (Items(20, odd(torch.zeros(2, 3, dtype=torch.complex64))), "item 7 is of torch.complex64: give real numbers"),
        (Items(20, odd(np.full((2, 3), "a"))), "item 7 is of <U1: give real numbers"),
        (Items(20, odd(10**30)), "item 7 is of object"),
        (Items(20, odd(torch.zeros(2, 3, device="meta"))), "item 7 raises NotImplementedError"),
        (Items(20, odd(Image.new("CMYK", (3, 2)))), "item 7 is an image of mode 'CMYK': convert it to 'L' or 'RGB'"),
        (Items(20, odd(Lazy())), "item 7 raises OSError (image file is truncated) when read"),
        (Items(20, lambda i: torch.zeros(2, 0)), "holds no values"),
        (Items(20, odd(torch.full((2, 3), math.nan))), "6 values are NaN, infinite or too big, first at [7, 0, 0]"),
        (Items(20, odd(np.full((2, 3), 1e39))), "first at [7, 0, 0]"),
        (Items(20, odd(torch.full((2, 3), 1e39, dtype=torch.float64))), "first at [7, 0, 0]"),
        ((EYE, Items(20, lambda i: torch.full((20,), math.inf))), "test: 400 values are NaN, infinite"),
        (Items(2**50, lambda i: torch.zeros(9)), "items of [9] do not fit into memory"),
        ((EYE,), "data are a tuple of 1: it needs train and test, or train, valid and test"),
        ((EYE,) * 4, "data are a tuple of 4"),
        ({"train": EYE}, "data sets are for ['train']: a mapping needs train and test, or train, valid and test"),
        ({"train": EYE, "validation": EYE, "test": EYE}, "a mapping needs"),
        ({}, "data sets are for []"),
        ((torch.eye(20), torch.eye(20)), "data 'train' must be a torch data set, not Tensor"),
        (("a.npy", "b.npy"), "data 'train' must be a torch data set, not str"),
        ((EYE, 3), "data 'test' must be a torch data set, not int"),
        ((EYE, (EYE, EYE)), "data 'test' must be a torch data set, not tuple"),
        (TensorDataset, "data must be a name, a file, a torch data set or a ppvae.Data, not type"),
        ({1, 2}, "not set: build ppvae.Data("),
        (b"0123456789abc", "not bytes"),
    ],
)
def test_bad_sets(given: Any, fragment: str) -> None:
    assert fragment in refusal(lambda: load_data(given))


def test_a_set_takes_only_treatments_that_suit_it() -> None:
    numbers = Items(20, lambda i: torch.full((3,), i, dtype=torch.uint8))
    assert "others between 0 and 19" in refusal(lambda: load_data(numbers, treatment="static"))
