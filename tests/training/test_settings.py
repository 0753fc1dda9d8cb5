"""The settings of a fit: what is refused where they are made, what the data fill in, and names of earlier versions."""

import math
from typing import Any

import pytest
import yaml

from ppvae.catalogue import FAMILIES, GRADIENTS, OBJECTIVES, STRATEGIES
from ppvae.errors import PpvaeError
from ppvae.training.schedule import SCHEDULES
from ppvae.training.settings import Settings, from_earlier

NAN, INF = math.nan, math.inf

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown inference": ({"inference": "Amortized"}, "unknown inference 'Amortized': did you mean 'amortized'"),
    "inference as a list": ({"inference": ["exact"]}, "unknown inference ['exact']: known: amortized"),
    "unknown family": ({"family": "low-rang"}, "did you mean 'low-rank'"),
    "options of no family": ({"family_options": {"rank": 2}}, "family_options are options of a family: name it"),
    "unknown objective": ({"objective": "elbow"}, "unknown objective 'elbow': did you mean 'elbo'"),
    "unknown gradient": ({"gradient": "reparm"}, "unknown gradient 'reparm': did you mean 'reparam'"),
    "unknown kl": ({"kl": "exact"}, "unknown kl 'exact': known: analytic, mc"),
    "gradient of another objective": (
        {"gradient": "vimco"}, "'vimco' does not go with objective 'elbo', which takes reparam, stl, score, loo",
    ),
    "gradient of rws": (
        {"objective": "rws", "gradient": "reparam"}, "does not go with objective 'rws', which takes wake",
    ),
    "analytic KL of iwae": ({"objective": "iwae", "kl": "analytic"}, "not with iwae by reparam: remove kl"),
    "analytic KL by stl": ({"gradient": "stl", "kl": "analytic"}, "not with elbo by stl: remove kl"),
    "beta of iwae": ({"objective": "iwae", "beta": 2}, "beta and free_bits weigh the ELBO's KL terms, and iwae has"),
    "free bits of rws": ({"objective": "rws", "free_bits": 0.1}, "and rws has none: remove beta and free_bits"),
    "warm-up of iwae": ({"objective": "iwae", "warmup": 5}, "and iwae has none: remove it"),
    "one particle of loo": ({"gradient": "loo"}, "loo compares particles: num_particles must be ≥ 2, got 1"),
    "negative beta": ({"beta": -1}, "beta must be a finite number ≥ 0, got -1"),
    "negative free bits": ({"free_bits": NAN}, "free_bits must be a finite number ≥ 0, got nan"),
    "warm-up in fractions": ({"warmup": 0.5}, "warmup must be a whole number ≥ 0, got 0.5"),
    "lr in words": ({"lr": "0.1"}, "lr must be a finite number > 0, got '0.1'"),
    "lr that is no number": ({"lr": NAN}, "lr must be a finite number > 0, got nan"),
    "lr as bool": ({"lr": True}, "lr must be a finite number > 0, got True"),
    "zero lr_encoder": ({"lr_encoder": 0}, "lr_encoder must be a finite number > 0, got 0"),
    "negative lr_phi": ({"inference": "per-datapoint", "lr_phi": -1}, "lr_phi must be a finite number > 0, got -1"),
    "batch_size as float": ({"batch_size": 10.0}, "batch_size must be a whole number ≥ 1, got 10.0"),
    "train_model as a number": ({"train_model": 1}, "train_model must be True or False, got 1"),
    "unknown optimizer": ({"optimizer": "adamax"}, "unknown optimizer 'adamax': did you mean 'adam'"),
    "unknown option of an optimizer": (
        {"optimizer_options": {"beta": 0.9}}, "optimizer adam: unknown option 'beta': did you mean 'betas'",
    ),
    "momentum of adam": ({"optimizer_options": {"momentum": 0.9}}, "adam: unknown option 'momentum': known: betas"),
    "betas of sgd": ({"optimizer": "sgd", "optimizer_options": {"betas": [0.9, 0.9]}}, "sgd: unknown option 'betas'"),
    "one beta": ({"optimizer_options": {"betas": [0.9]}}, "adam: betas must be a list of a number and a number, got"),
    "beta of 1": ({"optimizer_options": {"betas": [0.9, 1.0]}}, "adam: betas must be below 1, got [0.9, 1.0]"),
    "nesterov without momentum": (
        {"optimizer": "sgd", "optimizer_options": {"nesterov": True}}, "nesterov needs momentum > 0 and dampening 0",
    ),
    "unknown schedule": ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
    "unknown option of a schedule": (
        {"schedule": "step", "schedule_options": {"evry": 3}}, "step: unknown option 'evry': did you mean 'every'",
    ),
    "options of a constant": ({"schedule_options": {"final": 0.1}}, "schedule constant: unknown option 'final'"),
    "more than all": (
        {"schedule": "cosine", "schedule_options": {"final": 1.5}}, "final must be a finite number ≥ 0 and ≤ 1",
    ),
    "two lengths of warm-up": (
        {"schedule": "warm-up", "schedule_options": {"epochs": 1, "steps": 9}}, "epochs and steps were both given",
    ),
    "an empty table": ({"schedule": []}, "schedule is an empty list: give pairs of [epochs, lr], or a name"),
    "a table of numbers": ({"schedule": [0.1, 0.2]}, "schedule must be a list of a whole number and a number, got 0.1"),
    "a table with a half": ({"schedule": [[0.5, 0.1]]}, "schedule must be a whole number, got 0.5"),
    "a table with no epochs": ({"schedule": [[0, 0.1]]}, "epochs of each pair in schedule must be a whole"),
    "a table with lr 0": ({"schedule": [[1, 0.0]]}, "lr of each pair in schedule must be a finite number > 0"),
    "options of a table": ({"schedule": [[1, 0.1]], "schedule_options": {"every": 1}}, "remove schedule_options"),
    "epochs as bool": ({"epochs": True}, "epochs must be a whole number ≥ 1, got True"),
    "no epochs": ({"epochs": None}, "epochs must be a whole number ≥ 1, got None"),
    "infinite epochs": ({"epochs": INF}, "epochs must be a whole number ≥ 1, got inf"),
    "the earlier name": ({"max_epochs": 3}, "unknown option 'max_epochs': did you mean 'epochs'"),
    "steps as float": ({"steps": 1e3}, "steps must be a whole number ≥ 1, got 1000.0"),
    "negative seconds": ({"seconds": -1}, "seconds must be a finite number > 0, got -1"),
    "patience zero": ({"patience": 0}, "patience must be a whole number ≥ 1, got 0"),
    "eval_every as float": ({"eval_every": 1.5}, "eval_every must be a whole number ≥ 1, got 1.5"),
    "num_particles zero": ({"num_particles": 0}, "num_particles must be a whole number ≥ 1, got 0"),
    "accelerator as a number": ({"accelerator": 1}, "accelerator must be a word, got 1"),
    "precision as a number": ({"precision": 64}, "unknown precision 64: known: 32-true, 64-true, bf16-mixed"),
    "compile as a word": ({"compile": "yes"}, "compile must be True or False, got 'yes'"),
    "no seed": ({"seed": None}, "seed must be a whole number ≥ 0, got None"),
    "inference_options as a list": ({"inference_options": ["encoder"]}, "inference_options must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_refused_where_it_is_made(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(PpvaeError) as caught:
        Settings.of(changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_every_setting_refuses_something() -> None:
    tried = {name for changes, _ in REFUSED.values() for name in changes}
    assert Settings.options().keys() - tried == set()


def test_names_come_from_the_catalogues() -> None:
    known = {name: each.known() for name, each in Settings.options().items() if each.names is not None}
    catalogues = {"inference": STRATEGIES, "family": FAMILIES, "objective": OBJECTIVES, "gradient": GRADIENTS}
    for name, catalogue in {**catalogues, "schedule": SCHEDULES}.items():
        assert known.pop(name) == catalogue.names()
    assert known == {"optimizer": ["adam", "adamw", "rmsprop", "sgd"]}
    assert SCHEDULES.names() == ["constant", "cosine", "step", "warm-up"]


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws"])
def test_every_objective_goes_with_its_default_gradient(objective: str) -> None:
    assert Settings(objective=objective).gradient is None


def test_settings_survive_yaml() -> None:
    settings = Settings(
        schedule=((100, 1e-3), (50, 1e-4)), optimizer="sgd", optimizer_options={"momentum": 0.9}, steps=7, seed=3
    )
    assert Settings.of(yaml.safe_load(yaml.safe_dump(settings.plain()))) == settings
    assert settings.changed().keys() == {"schedule", "optimizer", "optimizer_options", "steps", "seed"}


def test_the_data_fill_in_what_is_none() -> None:
    settings = Settings(lr=0.01).for_data(1050).for_batches(11)
    assert (settings.batch_size, settings.lr_encoder, settings.eval_every) == (100, 0.01, 19)  # ⌈200 / 11 steps⌉
    assert Settings().for_batches(11, has_rows=True).eval_every == 60  # ⌈650 / 11⌉
    assert Settings(epochs=5).for_batches(1).eval_every == 5  # never more than the epochs
    assert Settings(eval_every=3, lr_encoder=0.2).for_data(10).changed() == {
        "eval_every": 3, "lr_encoder": 0.2, "batch_size": 10,
    }  # fmt: skip
    assert settings.for_data(1050).for_batches(1) == settings


def test_rows_refuse_data_that_are_redrawn() -> None:
    settings = Settings(inference="per-datapoint")
    with pytest.raises(PpvaeError, match=r'per-datapoint keeps a row.* load the data with treatment="static"'):
        settings.for_data(100, dynamic=True, has_rows=True)
    assert Settings().for_data(100, dynamic=True).batch_size == 100


def test_num_steps_is_what_epochs_and_steps_allow() -> None:
    assert Settings(epochs=3).num_steps(11) == 33
    assert Settings(epochs=3, steps=20).num_steps(11) == 20
    assert Settings(epochs=1, steps=20).num_steps(11) == 11


EARLIER = """
name: vae
data: digits
data_seed: 0
treatment: static
model: {x_dim: 64}
inference: per-datapoint
inference_options: {lr: 0.1}
family: null
family_options: {}
objective: elbo
gradient: reparam
kl: analytic
beta: 1.0
warmup: 0
free_bits: 0.0
num_particles: 1
batch_size: 100
lr: 0.001
lr_encoder: 0.001
max_epochs: 5
max_steps: null
max_seconds: 60.0
patience: 20
eval_every: 5
accelerator: auto
precision: 32-true
train_model: true
init: null
seed: 1
"""


def test_a_configuration_of_an_earlier_version_is_translated() -> None:
    config = from_earlier(yaml.safe_load(EARLIER))
    of_fit = {name: value for name, value in config.items() if name in Settings.options()}
    settings = Settings.of(of_fit)
    assert of_fit.keys() == Settings.options().keys()
    assert settings.plain() == of_fit
    assert (settings.epochs, settings.steps, settings.seconds) == (5, None, 60.0)
    assert (settings.optimizer, settings.schedule, settings.compile, settings.lr_phi) == (
        "adam",
        "constant",
        False,
        None,
    )
    assert {"max_epochs", "max_steps", "max_seconds"} & config.keys() == set()
    assert from_earlier(config) == config


def test_the_fits_of_an_earlier_comparison_are_translated() -> None:
    config = {"models": ["vae"], "fit": {"max_epochs": 5, "lr": 0.1}}
    assert from_earlier(config) == {"models": ["vae"], "fit": {"epochs": 5, "lr": 0.1}}
    assert config["fit"] == {"max_epochs": 5, "lr": 0.1}
