"""A table of everyone's clusters and scores, from a CSV of one's own."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

import ppvae
from ppvae.cli import main as cli
from ppvae.data.splits import observations


@pytest.fixture
def wine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """178 wines, 13 numbers and their kind, as wine.csv."""
    monkeypatch.chdir(tmp_path)
    frame = load_wine(as_frame=True).frame  # pyright: ignore[reportAttributeAccessIssue]
    frame.to_csv("wine.csv", index=False)
    return frame.to_numpy()


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("split", ["all", "test"])
def test_every_row_of_a_file_gets_its_score_and_cluster(split: str, wine: np.ndarray) -> None:
    """Each line of the table is that of the row of the file which it names."""
    standard = "--treatment standardised --labels target"
    command = f"fit gmm --data wine.csv {standard} --model.num_components 3 --run_dir run --inference exact"
    cli.main([*command.split(), "--epochs", "60"])
    cli.main(["evaluate", "run", "--split", split, "--out", "scores.csv"])
    table = read("scores.csv")
    data = ppvae.load_data("wine.csv", treatment="standardised", labels="target")
    rows = [int(line["row"]) for line in table]
    assert len(rows) == len(set(rows)) == (178 if split == "all" else 26)
    assert rows == (list(range(178)) if split == "all" else observations(data, "test").rows.tolist())
    model = ppvae.load("run").model
    mean, std = (getattr(ppvae.load_data("wine.csv", labels="target").train, of)(0).numpy() for of in ("mean", "std"))
    # the file itself, standardised by hand (divisor N or N − 1: a difference of 0.4% in a standard deviation)
    x = torch.tensor((wine[rows, :13] - mean) / (std * np.sqrt(123 / 124)), dtype=torch.float32)
    assert torch.allclose(observations(data, split).x, x, atol=1e-3, rtol=1e-2)
    with torch.no_grad():
        expected = model.log_prob(observations(data, split).x)
        cluster = model.responsibilities(observations(data, split).x).argmax(-1)  # pyright: ignore[reportCallIssue]
    assert [float(line["log_marginal"]) for line in table] == pytest.approx(expected.tolist(), abs=1e-3)
    assert [int(line["cluster"]) for line in table] == cluster.tolist()
    assert all(1 / 3 <= float(line["cluster_probability"]) <= 1 for line in table)


def test_a_model_without_clusters_has_scores(wine: np.ndarray) -> None:
    command = "fit ppca --data wine.csv --labels target --run_dir run --inference exact"
    cli.main([*command.split(), "--epochs", "2"])
    cli.main(["evaluate", "run", "--out", "scores.csv"])
    assert "cluster" not in read("scores.csv")[0]


def test_all_of_dynamic_data_cannot_be_judged() -> None:
    with pytest.raises(ppvae.PpvaeError, match="judge valid or test"):
        observations(ppvae.load_data("digits", treatment="dynamic"), "all")
