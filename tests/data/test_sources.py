"""Named sets from scikit-learn and torchvision, on images made here; and what `Data.source` says of any data."""

import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import identical, offline, refusal
from PIL import Image
from torch import Tensor

from ppvae import vision
from ppvae.catalogue import SOURCES
from ppvae.data.dataset import Data
from ppvae.data.loading import load_data

BACKGROUND = {"Greek": 3, "Arabic": 2}  # alphabet → characters, of 4 images each
EVALUATION = {"Tibetan": 2}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root; no test downloads."""
    return offline(tmp_path, monkeypatch)


# Two moons


def test_two_moons_lie_on_their_half_circles() -> None:
    data = load_data("two-moons")
    assert data.labels is not None
    x = torch.cat([*data.splits.values()]).double()
    moon = torch.cat([*data.labels.values()])
    assert moon.bincount().tolist() == [500, 500]
    centre = torch.stack([moon, 0.5 * moon], -1)  # unit circles around (0, 0) and (1, 1/2), the second's lower half
    away = x - centre
    # noise of deviation 0.1 along the radius: mean 1 + 0.1²/2 as the radius is convex in it; 5 standard errors
    assert abs(away.norm(dim=1).mean() - 1.005) < 5 * 0.1 / math.sqrt(1000)
    assert abs(away.norm(dim=1).std() - 0.1) < 5 * 0.1 / math.sqrt(2000)
    height = away[:, 1] * (1 - 2 * moon)
    assert abs(height.mean() - 2 / math.pi) < 5 * 0.1 / math.sqrt(1000)  # angles are evenly spaced, not drawn
    assert height.min() > -0.5
    for y in data.labels.values():  # shuffled, so that blocks are fair splits
        assert abs(y.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(len(y))


# KMNIST


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def test_kmnist_is_read_as_mnist_is(root: Path) -> None:
    raw = root / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, size in (("train", 60000), ("t10k", 10000)):
        images = np.zeros((size, 28, 28), dtype=np.uint8)
        images[:, 0, 1] = np.arange(size) % 256
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(size) % 10))
    data = load_data("kmnist", treatment="real")
    assert [tuple(x.shape) for x in data.splits.values()] == [(50000, 784), (10000, 784), (10000, 784)]
    assert data.labels is not None
    for split, start in (("train", 0), ("valid", 50000), ("test", 0)):
        rows = torch.arange(start, start + len(data.splits[split]))
        assert torch.equal(data.splits[split][:, 1], (rows % 256) / 255)
        assert torch.equal(data.labels[split], rows % 10)
    assert float(data.train[:, 2:].max()) == 0
    assert SOURCES.facts("kmnist")["treatment"] == "static"


# Omniglot


def page(rng: np.random.Generator) -> np.ndarray:
    """A character in black (False) on white."""
    white = np.ones((105, 105), dtype=bool)
    top, left = rng.integers(0, 60, 2)
    white[top : top + rng.integers(1, 45), left : left + rng.integers(1, 45)] = False
    return white


@pytest.fixture
def pages(root: Path) -> dict[str, list[tuple[str, int, np.ndarray]]]:
    """Part → (path in it, number of the character by name, page), as files in torchvision's layout."""
    rng, known, made = np.random.default_rng(0), 0, {}
    for part, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        made[part] = []
        for alphabet in sorted(alphabets):
            for character in range(1, alphabets[alphabet] + 1):
                for drawer in range(1, 5):
                    name = f"{alphabet}/character{character:02}/{known:04}_{drawer:02}.png"
                    made[part].append((name, known, page(rng)))
                known += 1
        for name, _, white in made[part][::-1]:  # another order on disk than that of names
            path = root / "omniglot-py" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(white).convert("1").save(path)
    return made


def averaged(white: np.ndarray) -> Tensor:
    """Ink by area: each pixel cut in 28 by 28, then means of 105 by 105 of those pieces."""
    rows = (~white).astype(float).repeat(28, axis=0).reshape(28, 105, 105).mean(1)
    return torch.tensor(rows.repeat(28, axis=1).reshape(28, 28, 105).mean(2)).float().flatten()


def test_omniglot(pages: dict[str, list], root: Path) -> None:
    data = load_data("omniglot", treatment="real")
    assert [tuple(x.shape) for x in data.splits.values()] == [(17, 784), (3, 784), (8, 784)]
    assert data.labels is not None
    expected = torch.stack([averaged(white) for _, _, white in pages["images_evaluation"]])
    torch.testing.assert_close(data.test, expected, atol=1e-6, rtol=0)
    assert data.labels["test"].tolist() == [k for _, k, _ in pages["images_evaluation"]] == [5] * 4 + [6] * 4
    order = np.random.RandomState(20131220).permutation(20)  # a stream that NumPy has frozen
    for split, rows in (("train", order[:17]), ("valid", order[17:])):
        of = [pages["images_background"][row] for row in rows]
        expected = torch.stack([averaged(white) for _, _, white in of])
        torch.testing.assert_close(data.splits[split], expected, atol=1e-6, rtol=0)
        assert data.labels[split].tolist() == [k for _, k, _ in of]
    assert identical(data, load_data("omniglot", treatment="real", seed=4))
    static = load_data("omniglot")
    assert (static.treatment, static.likelihood, static.name) == ("static", "bernoulli", "omniglot")
    assert static.source == {"name": "omniglot", "treatment": "static"}
    assert bool((static.test[data.test == 1] == 1).all())
    assert sorted(path.name for path in (root / "omniglot-py").iterdir()) == ["images_background", "images_evaluation"]


def test_omniglot_has_the_images_of_torchvision(pages: dict[str, list], root: Path, monkeypatch: Any) -> None:
    kind = vision.torchvision().datasets.Omniglot
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # of archives, which are not here
    ours, theirs = load_data("omniglot", treatment="real"), load_data((kind(root), kind(root, background=False)))
    assert theirs.train.shape == (17, 105 * 105)
    assert theirs.name == "Omniglot"
    for split in ("train", "test"):  # averages over areas keep the ink of each image; torchvision's order is the disk's
        split_ours = torch.cat([ours.train, ours.valid]) if split == "train" else ours.test
        split_theirs = torch.cat([theirs.train, theirs.valid]) if split == "train" else theirs.test
        ink = (split_ours.mean(1).sort().values, (1 - split_theirs).mean(1).sort().values)
        torch.testing.assert_close(*ink, atol=1e-5, rtol=0)


def test_omniglot_takes_the_whole_sets_valid_from_2000_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        x = torch.zeros(19280, 784)
        x[:, 0] = torch.arange(19280) / 19280
        return (x, torch.arange(19280) // 20), (torch.zeros(13180, 784), 964 + torch.arange(13180) // 20)

    monkeypatch.setattr("ppvae.data.sources.omniglot.read_omniglot", blank)
    data = load_data("omniglot", treatment="real")
    assert [len(x) for x in data.splits.values()] == [17280, 2000, 13180]
    assert data.labels is not None
    rows = (torch.cat([data.train, data.valid])[:, 0].double() * 19280).round().long()
    assert rows.sort().values.tolist() == list(range(19280))
    assert torch.equal(torch.cat([data.labels["train"], data.labels["valid"]]), rows // 20)
    assert rows[-3:].tolist() == np.random.RandomState(20131220).permutation(19280)[-3:].tolist()


@pytest.mark.parametrize("absent", ["all", "images_evaluation"])
def test_without_network_omniglot_says_what_goes_where(pages: dict[str, list], root: Path, absent: str) -> None:
    shutil.rmtree(root / "omniglot-py" / ("" if absent == "all" else absent))
    message = refusal(lambda: load_data("omniglot"))
    assert "cannot download Omniglot (<urlopen error tests have no network>)" in message
    assert f"put images_background.zip, images_evaluation.zip or the folders in them into {str(root)!r}"[:-1] in message
    assert "omniglot-py" in message
    assert "PPVAE_DATA" in message
    assert not (root / "omniglot-py" / "images_evaluation").exists()


def test_omniglots_archives_are_unpacked(
    pages: dict[str, list], root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, place, sums = load_data("omniglot"), root / "omniglot-py", {}
    for part in pages:
        archive = Path(shutil.make_archive(str(place / part), "zip", place, part))
        shutil.rmtree(place / part)
        sums[part] = hashlib.md5(archive.read_bytes()).hexdigest()
    archive = place / "images_evaluation.zip"
    intact = archive.read_bytes()
    monkeypatch.setattr(vision.torchvision().datasets.Omniglot, "zips_md5", sums)
    archive.write_bytes(intact[:-9])
    assert "cannot download Omniglot" in refusal(lambda: load_data("omniglot"))  # cut short: to be downloaded again
    sums["images_evaluation"] = hashlib.md5(intact[:-9]).hexdigest()
    archive.write_bytes(intact[:-9])
    assert "cannot download Omniglot" in refusal(lambda: load_data("omniglot"))  # whatever else stops the unpacking
    assert {path.name for path in place.iterdir()} == {"images_background", *(f"{part}.zip" for part in pages)}
    sums["images_evaluation"] = hashlib.md5(intact).hexdigest()
    archive.write_bytes(intact)
    assert identical(load_data("omniglot"), expected)
    assert {path.name for path in place.iterdir()} == {*pages, *(f"{part}.zip" for part in pages)}
    assert capsys.readouterr().out == ""


def empty(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda c: (c / "0000_02.png").write_bytes(b""), "Arabic/character01/0000_02.png: cannot identify"),
        (lambda c: (c / "0000_02.png").write_bytes((c / "0000_02.png").read_bytes()[:60]), "0000_02.png: "),
        (lambda c: Image.new("L", (28, 28)).save(c / "0000_02.png"), "0000_02.png: 28x28 instead of 105x105"),
        (lambda c: ((c / "0000_02.png").unlink(), (c / "0000_02.png").symlink_to("gone.png")), "0000_02.png: "),
        (empty, "images_background/Arabic/character01 has no .png in it"),
        (lambda c: (shutil.rmtree(c.parents[1]), c.parents[1].mkdir()), "images_background has no folders Alphabet/"),
    ],
)
def test_damaged_omniglot(pages: dict[str, list], root: Path, damage: Callable[[Path], object], fragment: str) -> None:
    damage(root / "omniglot-py" / "images_background" / "Arabic" / "character01")
    message = refusal(lambda: load_data("omniglot"))
    assert "Omniglot is damaged or unreadable" in message
    assert fragment in message
    assert str(root / "omniglot-py") in message


def test_omniglot_passes_over_hidden_files(pages: dict[str, list], root: Path) -> None:
    expected = load_data("omniglot")
    background = root / "omniglot-py" / "images_background"
    (background / ".DS_Store").touch()
    (background / "Arabic" / "character01" / "._0000_01.png").touch()  # what macOS puts beside files in archives
    assert identical(load_data("omniglot"), expected)


def test_omniglot_of_too_few_images(pages: dict[str, list], root: Path) -> None:
    shutil.rmtree(root / "omniglot-py" / "images_background" / "Greek")
    shutil.rmtree(root / "omniglot-py" / "images_background" / "Arabic" / "character02")
    assert "background set has only 4 images" in refusal(lambda: load_data("omniglot"))


# Data.source


def test_source_gives_the_same_data_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 2)))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("digits", {}),
        ("digits", {"seed": 3, "num_train": 20, "treatment": "dynamic"}),
        ("two-moons", {"seed": 2, "treatment": "standardised", "num_train": 9}),
        ("x.npy", {"treatment": "static", "root": "here"}),
    ]
    for name, options in cases:
        data = load_data(name, **options)
        source = data.source
        assert source is not None
        monkeypatch.chdir("/")
        assert identical(load_data(**source), data)
        assert load_data(**source).source == source
        monkeypatch.chdir(tmp_path)
        assert load_data(data) is data
    assert load_data("digits").source == {"name": "digits", "treatment": "static"}
    assert load_data("x.npy", root="here").source == {
        "name": str(tmp_path / "x.npy"), "treatment": "real", "root": str(tmp_path / "here")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"treatment": "static"}),
        ({"seed": 1}, {"treatment": "static"}),  # drawn from seed 0
        ({"seed": 1}, {"treatment": "dynamic", "seed": 2}),
        ({"seed": 1}, {"treatment": "threshold", "seed": 2}),
        ({}, {"num_train": 30}),
        ({"num_train": 40}, {"num_train": 30}),
        ({"num_train": 40}, {"seed": 8}),
        ({}, {"treatment": "standardised", "num_train": 30}),
    ],
)
def test_source_of_data_treated_in_two_steps(first: dict[str, Any], second: dict[str, Any]) -> None:
    data = load_data(load_data("digits", treatment="real", **first), **second)
    assert data.source is not None
    assert identical(load_data(**data.source), data)


def test_generated_data_keep_their_seed_in_source() -> None:
    data = load_data(load_data("two-moons", seed=1), treatment="standardised", seed=2)
    source: Any = data.source
    assert source == {"name": "two-moons", "seed": 1, "treatment": "standardised"}
    assert identical(load_data(**source), data)


def test_nothing_gives_again_what_was_made_in_python_or_treated_after_a_cut() -> None:
    data = load_data("digits", treatment="real", num_train=30)
    standardised = load_data(data, treatment="standardised")  # by the 30 rows' moments, not by all rows'
    assert standardised.source is None
    assert abs(float(standardised.train.mean())) < 1e-6
    own = Data("own", data.train, data.valid, data.test, "gaussian", "real")
    assert load_data(own, num_train=3).source is None
    assert load_data(own, treatment="standardised").source is None
