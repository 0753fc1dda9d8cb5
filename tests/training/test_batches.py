"""The batches of an epoch: under batch normalisation none is of one datum, and all that counts steps agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal
from conftest import bounds, identical, weights
from pairs import Linear
from stops import stopped_before
from torch import Tensor, nn

import ppvae
from ppvae.training.batches import batch_sizes


class OwnEncoder(Linear):
    """The same, with an encoder that normalises over a batch."""

    def encoder(self) -> nn.Module:
        return normalised()


class Frozen(nn.BatchNorm1d):
    """Batch normalisation that always uses its running moments."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


class Sizes(nn.Module):
    """Notes the size of each batch in training, and of all calls the mode."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.after = after
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(len(x))
        return self.after(x)


def normalised(layer: Callable[..., nn.Module] = nn.BatchNorm1d) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 6), layer(6), nn.Tanh())


def data(size: int) -> ppvae.Data:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 1
    return ppvae.Data("a few", x[:size], x[50:55], x[55:], "gaussian", "real")


def fit(size: int, encoder: nn.Module | None, inference: str = "amortized", model: Any = None, **options: Any) -> Any:
    more: dict[str, Any] = {"epochs": 3, "batch_size": 10, "eval_every": 1, "lr": 0.01, "progress": False}
    own = {} if encoder is None else {"encoder": encoder}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model or Linear()
    return ppvae.fit(model, data(size), inference, inference_options=own, **more | options)


def steps(result: ppvae.Fit) -> list[float]:
    return [entry["step"] for entry in result.history]


@pytest.mark.parametrize(
    ("size", "batch_size", "expected"),
    [(21, 10, [10, 11]), (31, 10, [10, 10, 11]), (11, 10, [11]), (20, 10, [10, 10]), (22, 10, [10, 10, 2]),
     (3, 2, [3]), (7, 100, [7]), (2, 2, [2])],
)  # fmt: skip
def test_no_batch_is_of_one_datum_under_batch_normalisation(size: int, batch_size: int, expected: list[int]) -> None:
    """Without it, and where it uses its running moments, sizes are as ever."""
    batch_size = min(batch_size, size)
    plain = [len(part) for part in torch.arange(size).split(batch_size)]
    assert batch_sizes(normalised(), size, batch_size) == expected
    for layer in (nn.LayerNorm, nn.Identity, Frozen, nn.InstanceNorm1d):
        assert batch_sizes(normalised(layer).train(), size, batch_size) == plain
    assert batch_sizes(normalised().eval(), size, batch_size) == plain


@pytest.mark.parametrize("inference", ["amortized", "semi-amortized"])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.LazyBatchNorm1d])
def test_a_fit_whose_last_datum_is_alone(layer: type[nn.Module], inference: str) -> None:
    encoder = Sizes(nn.Sequential(nn.Linear(4, 6), nn.LazyBatchNorm1d()) if layer is nn.LazyBatchNorm1d
                    else normalised(layer))  # fmt: skip
    result = fit(21, encoder, inference)
    assert result.strategy.get_submodule("encoder").seen == 3 * [10, 11]
    assert steps(result) == [2, 4, 6]
    assert result.settings.batch_size == 10
    assert encoder.seen == []


@pytest.mark.parametrize("inference", ["amortized", "semi-amortized"])
def test_the_models_own_encoder_counts(inference: str) -> None:
    assert steps(fit(21, None, inference, model=OwnEncoder())) == [2, 4, 6]


def test_all_that_counts_steps_agrees() -> None:
    """Schedules in epochs and over all steps, evaluations by the number of steps, and the budget."""
    one = fit(21, normalised(), epochs=1)
    same = fit(21, normalised(), schedule="step", schedule_options={"every": 1, "factor": 1e-30})
    learned, still = dict(one.strategy.named_parameters()), dict(same.strategy.named_parameters())
    assert all(torch.allclose(learned[name], still[name], rtol=0, atol=1e-20) for name in learned)
    for layer, expected in ((nn.BatchNorm1d, [200, 205]), (nn.LayerNorm, [200, 400, 410])):
        assert steps(fit(11, normalised(layer), epochs=205, eval_every=None, patience=None)) == expected
    assert steps(fit(21, normalised(), steps=3)) == [2, 3]


def test_a_schedule_over_all_steps_knows_their_number() -> None:
    """Two epochs of one batch have the rates of one epoch of two batches."""
    rates: list[float] = []

    class Noted(torch.optim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", Noted)
        for size, epochs in ((11, 2), (20, 1)):
            fit(size, normalised(), epochs=epochs, optimizer="sgd", schedule="cosine")
    assert len(rates) == 4
    assert rates[:2] == rates[2:]


def test_a_stopped_run_continues(tmp_path: Path) -> None:
    """Also one whose encoder was given in evaluation mode: it trains in the other from the first step on."""
    for step, encoder in ((3, normalised()), (5, normalised().eval())):
        place = tmp_path / str(step)
        alone = fit(21, encoder)
        with stopped_before(step):
            fit(21, encoder, run_dir=place, checkpoint_seconds=0.0)
        resumed = fit(21, encoder, run_dir=place, resume=True)
        assert identical(weights(resumed), weights(alone))
        assert bounds(resumed) == bounds(alone)
        assert bounds(alone) == bounds(fit(21, normalised()))


def test_a_batch_of_one_is_as_ever_without_batch_normalisation() -> None:
    encoder = Sizes(normalised(nn.LayerNorm))
    result = fit(21, encoder)
    assert result.strategy.get_submodule("encoder").seen == 3 * [10, 10, 1]
    assert steps(fit(4, normalised(nn.LayerNorm), batch_size=1)) == [4, 8, 12]
    assert steps(fit(1, normalised(nn.LayerNorm))) == [1, 2, 3]
    assert steps(fit(21, normalised(Frozen))) == [3, 6, 9]


@pytest.mark.parametrize("inference", ["amortized", "semi-amortized"])
def test_what_cannot_be_normalised_is_refused(inference: str, tmp_path: Path) -> None:
    """Before training, with the way out."""
    text = refusal(lambda: fit(21, normalised(), inference, batch_size=1, run_dir=tmp_path / "run"))
    assert "strategy.encoder.1 (BatchNorm1d) needs two data in every batch, and batch_size is 1: use 2 or more" in text
    assert not (tmp_path / "run").exists()
    text = refusal(lambda: fit(1, normalised(), inference))
    assert "strategy.encoder.1 (BatchNorm1d) needs two data in every batch, and there is one training datum" in text
    assert "LayerNorm" in text


def test_moments_of_a_batch_are_no_encoder_of_a_datum() -> None:
    """Without running moments φ of a datum would depend on its neighbours in evaluation."""
    encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False))
    text = refusal(lambda: fit(21, encoder))
    assert "encoder.1 (BatchNorm1d) keeps no running moments" in text
    assert "track_running_stats=True" in text


def test_new_data_are_inferred_one_by_one() -> None:
    result = fit(21, normalised())
    x = data(21).test
    alone = torch.cat([result.strategy.layout.pack(result.posterior(x[i : i + 1]).phi, 1) for i in range(len(x))])
    together = result.strategy.layout.pack(result.posterior(x).phi, len(x))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
