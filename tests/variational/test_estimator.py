"""What goes together, what is refused, and schedules."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from checks import refusal

import ppvae
from ppvae.catalogue import GRADIENTS, OBJECTIVES
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective_choice import gradients_of


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_pair_of_the_table_trains_and_no_other_does(objective: str, gradient: str) -> None:
    data = ppvae.load_data("digits", num_train=60)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])

    def fit() -> ppvae.Fit:
        return ppvae.fit(
            model, data, objective=objective, gradient=gradient, num_particles=3, epochs=25, lr=0.01,
            lr_encoder=1e-4, eval_every=5,
            patience=None, batch_size=20,
        )  # fmt: skip

    if gradient in gradients_of(objective):
        history = fit().history
        assert history[-1]["valid_bound"] > history[0]["valid_bound"]
    else:
        with pytest.raises(ppvae.PpvaeError, match=f"{gradient!r} does not go with objective {objective!r}"):
            fit()


def test_dreg_refuses_weights_of_the_guide() -> None:
    data = ppvae.load_data("digits", num_train=60)
    model = ppvae.create("dlgm", x_dim=64, latent_dims=[3, 2], hidden=8)
    with pytest.raises(ppvae.PpvaeError, match="guide owns weights"):
        ppvae.fit(model, data, objective="iwae", gradient="dreg", num_particles=3, epochs=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "iwea"}, "unknown objective 'iwea': did you mean 'iwae'"),
        ({"gradient": "reinforce"}, "unknown gradient 'reinforce'"),
        ({"gradient": "loo"}, "num_particles must be ≥ 2, got 1"),
        ({"objective": "iwae", "gradient": "vimco"}, "num_particles must be ≥ 2, got 1"),
        ({"gradient": "stl", "kl": "analytic"}, "kl='analytic' goes with"),
        ({"objective": "iwae", "kl": "analytic"}, "kl='analytic' goes with"),
        ({"objective": "iwae", "beta": 0.5}, "beta and free_bits weigh"),
        ({"objective": "iwae", "warmup": 5}, "warmup raises"),
        ({"beta": -1.0}, "beta must be a finite number ≥ 0"),
        ({"beta": math.inf}, "beta must be a finite number ≥ 0"),
        ({"free_bits": math.nan}, "free_bits must be a finite number ≥ 0"),
        ({"warmup": -1}, "warmup must be a whole number ≥ 0"),
        ({"train_model": "no"}, "train_model must be True or False"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    model = ppvae.create("ppca", x_dim=4, latent_dim=2)
    assert words in refusal(lambda: ppvae.fit(model, ppvae.load_data("iris"), epochs=1, **options))


# Schedules


def test_warm_up_raises_beta_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    take = Estimator.estimate

    def watched(self: Estimator, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append((self.beta, self.free_bits))
        return take(self, *args, **kwargs)

    monkeypatch.setattr(Estimator, "estimate", watched)
    data = ppvae.load_data("iris")
    ppvae.fit(
        ppvae.create("ppca", x_dim=4, latent_dim=2), data, beta=0.8, warmup=4, free_bits=0.1, steps=6, batch_size=20
    )
    assert seen == [(pytest.approx(b), 0.1) for b in (0.2, 0.4, 0.6, 0.8, 0.8, 0.8)]


def test_the_validation_bound_has_no_schedule() -> None:
    """A fit of no steps to speak of: what is recorded is the ELBO, whatever the warm-up."""
    data = ppvae.load_data("iris")
    torch.manual_seed(0)
    model = ppvae.create("ppca", x_dim=4, latent_dim=2)
    plain, warm = (ppvae.fit(model, data, steps=1, lr=1e-9, **more) for more in ({}, {"warmup": 50, "free_bits": 3.0}))
    assert plain.history[0]["valid_bound"] == pytest.approx(warm.history[0]["valid_bound"], abs=1e-4)


def test_equal_settings_are_equal_estimators_that_survive_a_pickle() -> None:
    estimator = Estimator("elbo", "loo", beta=0.5)
    assert (estimator.goal.beta, estimator.by_score) == (0.5, True)
    again = pickle.loads(pickle.dumps(estimator))
    assert again == estimator == Estimator("elbo", "loo", beta=0.5, kl="mc")
    assert again != replace(estimator, beta=1.0)
    assert replace(estimator, beta=1.0).goal.beta == 1.0


def test_the_plain_gradient_is_that_of_the_draws_where_they_carry_one() -> None:
    plain = {(o, g): Estimator(o, g).plain().gradient for o in OBJECTIVES for g in gradients_of(o)}
    assert {pair for pair, name in plain.items() if name == "reparam"} == {
        (o, g) for o in ("elbo", "iwae") for g in ("reparam", "stl", "dreg") if (o, g) != ("elbo", "dreg")
    }
    assert all(name in ("reparam", gradient) for (_, gradient), name in plain.items())
