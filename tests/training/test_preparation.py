"""Going on from another fit, under the same or another strategy: what is taken over, what is kept, what is refused."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from checks import refusal
from conftest import Untouched
from stops import stopped_before
from torch import Tensor, nn

import ppvae
from ppvae.cli import main as cli
from ppvae.pair.local import Phi
from ppvae.variational.objectives.elbo import elbo

#: a learning rate at which no weight moves
STILL = 1e-30
#: all strategies that have something of their own to train
OWN = ("amortized", "per-datapoint", "semi-amortized")
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"latent_dim": 3, "hidden": [12]},
    "dlgm": {"latent_dims": [3, 2], "hidden": 12},
}


@cache
def digits() -> ppvae.Data:
    data = ppvae.load_data("digits", num_train=60)
    return replace(data, valid=data.valid[:10], test=data.test[:10], labels=None)


def make(name: str = "vae") -> ppvae.Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ppvae.create(name, x_dim=64, **MODELS[name])


def fit(model: ppvae.Model | ppvae.Fit, inference: str, data: ppvae.Data | None = None, **options: Any) -> ppvae.Fit:
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 30, "patience": None, "accelerator": "cpu", "lr": 0.01}
    if inference == "per-datapoint":
        options["inference_options"] = {"max_steps": 25} | options.get("inference_options", {})
    return ppvae.fit(model, data or digits(), inference, progress=False, **defaults | options)


@cache
def origin(inference: str = "amortized", name: str = "vae") -> ppvae.Fit:
    return fit(make(name), inference, epochs=10)


def taken_over(inference: str, begin: ppvae.Fit, data: ppvae.Data | None = None, **options: Any) -> ppvae.Fit:
    """The fit before its first step: nothing moves."""
    rows = {"lr_phi": STILL} if inference == "per-datapoint" else {}
    return fit(begin, inference, data, epochs=1, **{"lr": STILL, **rows, **options})


def theta(fit: ppvae.Fit) -> dict[str, Tensor]:
    """Weights of the model that its guide does not own."""
    owned = {id(p) for p in fit.model.guide_parameters()}
    return {name: p.detach() for name, p in fit.model.named_parameters() if id(p) not in owned}


def links(fit: ppvae.Fit) -> list[Tensor]:
    return [p.detach() for p in fit.model.guide_parameters()]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the last bit, or by a step of 1e-30 from zero."""
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], rtol=0, atol=1e-20) for n in one)


def bound(fit: ppvae.Fit, posterior: ppvae.Posterior, x: Tensor) -> Tensor:
    """The ELBO of each datum on fixed noise, [B]."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return elbo(ppvae.log_densities(fit.model, posterior, x, 5), kl="analytic")


def own(fit: ppvae.Fit, x: Tensor) -> ppvae.Posterior:
    """q of the training data, as training left it."""
    return fit.posterior(x, torch.arange(len(x)) if fit.strategy.has_rows else None)


# What is taken over


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("before", OWN)
def test_rows_start_at_the_others_posterior(before: str, name: str) -> None:
    """Of every training datum: the packed φ itself, and its bound on the same noise within rounding."""
    begin, x = origin(before, name), digits().train
    rows = taken_over("per-datapoint", begin)
    expected = own(begin, x)
    packed = begin.strategy.layout.pack(expected.phi, len(x))
    torch.testing.assert_close(rows.strategy.get_parameter("table").detach(), packed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bound(rows, own(rows, x), x), bound(begin, expected, x), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(packed, rows.strategy.start.expand_as(packed), atol=1e-2)
    assert rows.strategy.get_buffer("steps").tolist() == [1.0] * len(x)


@pytest.mark.parametrize(("before", "after"), [("amortized", "semi-amortized"), ("semi-amortized", "amortized"),
                                               ("amortized", "amortized")])  # fmt: skip
def test_an_encoder_goes_on_with_the_others_weights(before: str, after: str) -> None:
    """All of them, exactly, and θ's."""
    begin = origin(before)
    result = taken_over(after, begin)
    assert same(result.strategy.state_dict(), begin.strategy.state_dict())
    assert same(theta(result), theta(begin))


def test_rows_go_on_as_rows() -> None:
    """Per datapoint from per datapoint: the table itself."""
    begin = origin("per-datapoint")
    table = taken_over("per-datapoint", begin).strategy.get_parameter("table")
    torch.testing.assert_close(table, begin.strategy.get_parameter("table"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("after", ["amortized", "semi-amortized"])
def test_an_encoder_after_rows_is_a_fresh_one(after: str) -> None:
    """θ is where it was, and the encoder proposes the declared φ for every datum."""
    begin, x = origin("per-datapoint"), digits().train
    result = taken_over(after, begin, inference_options={} if after == "amortized" else {"refine_steps": 0})
    assert same(theta(result), theta(begin))
    start = result.strategy.start
    proposed = result.strategy.layout.pack(result.posterior(x).phi, len(x))
    torch.testing.assert_close(proposed, start.expand(len(x), -1), rtol=0, atol=1e-6)
    assert not bool((result.strategy.get_parameter("head.weight").abs() > 1e-20).any())


@pytest.mark.parametrize("hidden", [[9], [12, 12]])
def test_an_encoder_of_another_shape_starts_anew(hidden: list[int]) -> None:
    """As a whole: no layer that would fit is taken from the other, and the bound is that of the declared φ."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        body = nn.Sequential(*(nn.Linear(i, o) for i, o in pairwise([64, *hidden, 12])))
    begin, x = origin(), digits().train
    result = taken_over("amortized", begin, inference_options={"encoder": body})
    torch.testing.assert_close(result.strategy.get_parameter("head.bias"), result.strategy.start, rtol=0, atol=1e-20)
    assert same(
        {n: p for n, p in result.strategy.state_dict().items() if n.startswith("encoder.")},
        {f"encoder.{n}": p for n, p in body.state_dict().items()},
    )
    declared = result.strategy.layout.unpack(result.strategy.start.expand(len(x), -1))
    at_start = bound(begin, ppvae.Posterior(begin.model, declared), x)
    torch.testing.assert_close(bound(result, result.posterior(x), x), at_start, rtol=1e-6, atol=1e-5)


def test_going_on_is_better_than_beginning() -> None:
    """The first bound of the second fit is above the first one's first, and its best above the first one's best."""
    begin = origin()
    result = fit(begin, "semi-amortized", epochs=10)
    assert result.history[0]["valid_bound"] > begin.history[0]["valid_bound"]
    assert max(e["valid_bound"] for e in result.history) > max(e["valid_bound"] for e in begin.history)


# θ kept


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("inference", OWN)
@pytest.mark.parametrize("before", OWN)
def test_train_model_false_keeps_theta(before: str, inference: str, name: str, untouched: Untouched) -> None:
    """To the last bit, while λ or the rows, and the weights that the guide owns, move; the origin stays as it is."""
    begin = origin(before, name)
    still = taken_over(inference, begin, train_model=False)
    with untouched(begin.model, begin.strategy):
        moved = fit(begin, inference, train_model=False)
    assert all(torch.equal(value, theta(begin)[key]) for key, value in theta(moved).items())
    own_name = "table" if inference == "per-datapoint" else "head.weight"
    table, was = moved.strategy.get_parameter(own_name), still.strategy.get_parameter(own_name)
    assert not torch.allclose(table, was, rtol=0, atol=1e-4)
    assert len(links(moved)) == (4 if name == "dlgm" else 0)
    assert not any(torch.equal(now, before) for now, before in zip(links(moved), links(begin), strict=True))
    assert moved.settings.train_model is False


@pytest.mark.parametrize("inference", OWN)
def test_flags_are_as_they_were(inference: str) -> None:
    """A weight that the user had frozen stays so, every other can be trained again."""
    model = make()
    name, frozen = next(iter(model.named_parameters()))
    frozen.requires_grad_(False)
    begin = fit(model, "amortized")
    result = fit(begin, inference, train_model=False)
    assert {n for n, p in result.model.named_parameters() if not p.requires_grad} == {name}
    assert all(p.requires_grad for p in result.strategy.parameters())
    on = fit(result, inference)
    moved = {n for n, value in theta(on).items() if not torch.equal(value, theta(begin)[n])}
    assert moved == theta(begin).keys() - {name}


def test_train_model_false_keeps_a_models_own_weights_too() -> None:
    """A model that is given as such is not started anew from the data."""
    begin = origin()
    result = fit(begin.model, "per-datapoint", train_model=False)
    assert all(torch.equal(value, theta(begin)[key]) for key, value in theta(result).items())


def test_more_inference_under_the_same_model_raises_its_bound() -> None:
    """Rows that go on from an encoder, θ kept: by more than 5 standard errors of the paired difference."""
    begin, x = origin(), digits().train
    result = fit(begin, "per-datapoint", epochs=40, train_model=False, lr_phi=0.02)
    gain = bound(result, own(result, x), x) - bound(begin, own(begin, x), x)
    assert (gain.mean() / gain.std() * len(gain) ** 0.5).item() > 5


class Fixed(ppvae.Model):
    """x ~ Normal(z, 1) with nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {"loc": ppvae.Local(torch.zeros(2))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 0.5**0.5).to_event(1))


@pytest.mark.parametrize("train_model", [True, False])
@pytest.mark.parametrize("inner_steps", [1, 5])
def test_rows_of_a_model_without_weights_are_fitted(inner_steps: int, train_model: bool) -> None:
    """To the posterior's mean x / 2, up to the noise of 300 steps of Adam: some tenths of lr · √steps."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    data = ppvae.Data("noise", x[:20], x[20:30], x[30:], "gaussian", "real")
    result = fit(
        Fixed(), "per-datapoint", data, epochs=300 // inner_steps, lr_phi=0.02, num_particles=4,
        train_model=train_model, eval_every=300, inference_options={"inner_steps": inner_steps},
    )  # fmt: skip
    found = own(result, data.train).phi["loc"]
    assert (found - data.train / 2).abs().max() < 0.3
    assert (found - data.train / 2).abs().mean() < 0.1 < (data.train / 2).abs().mean()


# Refusals, and other data


def test_exact_inference_with_theta_kept_has_nothing_to_train() -> None:
    """One line, which says so."""
    data = ppvae.load_data("iris")
    begin = ppvae.fit(ppvae.create("ppca", x_dim=4), data, "exact", epochs=2, progress=False)
    text = refusal(lambda: ppvae.fit(begin, data, "exact", epochs=2, train_model=False, progress=False))
    assert "PPCA has no parameter to train" in text
    assert "train_model=False" in text
    on = ppvae.fit(begin, data, "exact", epochs=2, lr=STILL, progress=False)
    assert same(theta(on), theta(begin))


@pytest.mark.parametrize("before", OWN)
@pytest.mark.parametrize("inference", OWN)
def test_any_number_of_data_goes_on(before: str, inference: str) -> None:
    """Fewer, more, or as many others: rows start at the inferred φ of the new data, which is not that of the old."""
    begin = origin(before)
    for data in (
        replace(digits(), name="fewer", train=digits().train[:7]),
        replace(digits(), name="more", train=torch.cat([digits().train, digits().test])),
        replace(digits(), name="others", train=digits().train.flip(0), source=None),
    ):
        result = taken_over(inference, begin, data)
        assert result.data.num_data == len(data.train)
        assert same(theta(result), theta(begin))
        if inference == "per-datapoint":
            expected = begin.strategy.layout.pack(begin.posterior(data.train).phi, len(data.train))
            table = result.strategy.get_parameter("table")
            torch.testing.assert_close(table.detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inference", OWN)
def test_data_of_another_size_are_refused(inference: str) -> None:
    """In one line that names the site and both sizes."""
    text = refusal(lambda: fit(origin(), inference, ppvae.load_data("iris")))
    assert "site 'x'" in text
    assert "64" in text


@pytest.mark.parametrize("inference", OWN)
def test_data_of_another_shape_work_or_are_refused(inference: str) -> None:
    """As many numbers in [8, 8]: an encoder flattens them; rows cannot start at the posterior of such x."""
    data = digits()
    square = replace(
        data, train=data.train.reshape(-1, 8, 8), valid=data.valid.reshape(-1, 8, 8), test=data.test.reshape(-1, 8, 8)
    )
    if inference == "per-datapoint":
        assert "x must be a tensor [B, 64]" in refusal(lambda: fit(origin(), inference, square))
    else:
        assert fit(origin(), inference, square).event_shape == (8, 8)


def test_dynamic_data_give_rows_no_start() -> None:
    """Rows refuse redrawn data from another fit as they do from a model."""
    data = ppvae.load_data("digits", treatment="dynamic", num_train=20)
    assert "dynamic" in refusal(lambda: fit(origin(), "per-datapoint", data))


@pytest.mark.parametrize("given", [None, 3, nn.Linear(2, 2)])
def test_what_is_neither_a_model_nor_a_fit_is_refused(given: Any) -> None:
    message = refusal(lambda: fit(given, "amortized"))
    assert (
        f"model must be a ppvae.Model or the name of one (ppvae list has them), got {type(given).__name__}" in message
    )


def test_options_are_checked_as_ever() -> None:
    """Guides that own weights do not go with dreg, from another fit either; unknown options are named."""
    text = refusal(lambda: fit(origin("amortized", "dlgm"), "amortized", objective="iwae", gradient="dreg"))
    assert "guide owns weights" in text
    assert "unknown option 'lrr'" in refusal(lambda: fit(origin(), "amortized", inference_options={"lrr": 1}))


# Kept runs


def kept(place: Path, resume: bool = False, **options: Any) -> ppvae.Fit:
    return fit(
        origin(), "per-datapoint", train_model=False, run_dir=place, resume=resume, checkpoint_seconds=0.0, **options
    )


def killed(place: Path, run: Callable[[], object]) -> None:
    """Run until the third step."""
    with stopped_before(3):
        run()
    assert (place / "checkpoint.pt").exists()


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    """Weights and rows end to the last bit as if it had been left alone; all of θ can be trained again."""
    killed(tmp_path / "run", lambda: kept(tmp_path / "run"))
    resumed, alone = kept(tmp_path / "run", resume=True), kept(tmp_path / "alone")
    read = kept(tmp_path / "run", resume=True)  # it is finished: read, not trained again
    for result in (resumed, read, ppvae.load(tmp_path / "run")):
        for one, other in ((result.model, alone.model), (result.strategy, alone.strategy)):
            state, expected = one.state_dict(), other.state_dict()
            assert state.keys() == expected.keys()
            assert all(torch.equal(state[name], expected[name]) for name in state)
            assert all(p.requires_grad for p in one.parameters())


def test_another_origin_is_another_run(tmp_path: Path) -> None:
    """A run that began from a fit is not gone on with from a model."""
    kept(tmp_path / "run")
    text = refusal(lambda: fit(make(), "per-datapoint", train_model=False, run_dir=tmp_path / "run", resume=True))
    assert "holds a run with init 'a fit in Python', not None" in text


# The command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of ppca on iris in `first`."""
    monkeypatch.chdir(tmp_path)
    data = ppvae.load_data("iris")
    ppvae.fit(ppvae.create("ppca", x_dim=4), data, epochs=3, progress=False, run_dir="first")
    return tmp_path


INIT = "fit --init first --data iris --inference per-datapoint --train_model false --epochs 2"


def command(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(shlex.split(words))
    out, err = capsys.readouterr()
    return status, out, err


def weights(folder: str) -> dict[str, Tensor]:
    fit = ppvae.load(folder)
    return {**fit.model.state_dict(), **{f"strategy.{k}": v for k, v in fit.strategy.state_dict().items()}}


def test_init_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """θ is the run's, rows are new, and the configuration says where it came from."""
    status, out, err = command(f"{INIT} --run_dir second", capsys)
    assert (status, err) == (0, "")
    assert "ppca under per-datapoint on iris" in out
    first, second = ppvae.load("first"), ppvae.load("second")
    assert all(torch.equal(value, theta(first)[key]) for key, value in theta(second).items())
    config = yaml.safe_load((here / "second" / "config.yaml").read_text())
    assert (config["init"], config["train_model"]) == (str(here / "first"), False)
    assert command("evaluate second --num_samples 20 --num_data 5", capsys)[0] == 0


def test_a_configuration_with_init_repeats_its_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same weights, to the last bit."""
    assert command(f"{INIT} --run_dir second", capsys)[0] == 0
    status, _, err = command("fit --config second/config.yaml --run_dir third", capsys)
    assert (status, err) == (0, "")
    second, third = weights("second"), weights("third")
    assert second.keys() == third.keys()
    assert all(torch.equal(second[name], third[name]) for name in second)


def test_a_run_with_init_is_resumed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--resume RUN` alone, to the last bit."""
    more = "--checkpoint_seconds 0 --batch_size 30 --run_dir"
    killed(here / "second", lambda: cli.main(shlex.split(f"{INIT} {more} second --debug")))
    assert command("fit --resume second", capsys)[0] == 0
    assert command(f"{INIT} {more} third", capsys)[0] == 0
    second, third = weights("second"), weights("third")
    assert all(torch.equal(second[name], third[name]) for name in second)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit ppca --init first --data iris", "a name (ppvae list has them), or --init and no name"),
        ("fit vae --init first --data iris", "a name (ppvae list has them), or --init and no name"),
        ("fit --init first --data iris --model.latent_dim 3", "the options of the model are those of first"),
        ("fit --init nowhere --data iris", "nowhere is not a run"),
        ("fit --init . --data iris", "is not a run"),
        ("fit --init first --data iris --inference exact --train_model false", "train_model=False"),
        ("fit --init first --data iris --train_model maybe", "train_model must be True or False, got 'maybe'"),
        ("fit --init first --data digits", "site 'x'"),
    ],
)
def test_the_command_line_refuses(words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is written."""
    status, _, err = command(f"{words} --run_dir new", capsys)
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (here / "new").exists()


def test_an_objective_with_one_sound_default_draws_nothing_to_choose_its_gradient() -> None:
    """On data that are drawn anew at each step: what the choice drew would move every number after it."""
    data = ppvae.load_data("digits", treatment="dynamic", num_train=100)
    torch.manual_seed(1)
    model = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])
    options: dict[str, Any] = {"objective": "iwae", "num_particles": 2, "steps": 2, "seed": 3, "progress": False}
    default, named = (ppvae.fit(model, data, gradient=gradient, **options) for gradient in (None, "reparam"))
    assert default.settings.gradient == "reparam"
    weights, others = default.model.state_dict(), named.model.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
