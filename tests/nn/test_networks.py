"""The networks that models share, and the activation between their layers."""

from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import nn

import ppvae
from ppvae.nn.networks import ACTIVATIONS, default_encoder, mlp, recognition

BY_HAND = {
    "relu": lambda x: x.clamp_min(0),
    "tanh": torch.tanh,
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * torch.special.ndtr(x),
    "leaky-relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: (1 + x.exp()).log(),
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_stands_between_the_layers_and_not_after_the_last(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    net = mlp(3, 4, 2, activation=name)
    first, last = (layer for layer in net if isinstance(layer, nn.Linear))
    torch.testing.assert_close(net(x), last(BY_HAND[name](first(x))))
    body = recognition(3, 4, activation=name)
    (layer,) = (layer for layer in body.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(body(x), BY_HAND[name](layer(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_weights_have_the_same_names_and_values_under_each_activation(name: str) -> None:
    """So that weights saved under one load into a network of the same sizes."""
    x = torch.randn(6, 3)

    def state(activation: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return default_encoder(x, 4, activation).state_dict()

    one, other = state("relu"), state(name)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


MODELS: list[tuple[str, dict[str, Any]]] = [
    ("vae", {"hidden": [6]}),
    ("vae", {"hidden": [6], "likelihood": "gaussian"}),
    ("dlgm", {"hidden": 6, "latent_dims": [3, 2], "likelihood": "gaussian"}),
    ("gmm", {}),
]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_every_network_of_a_model_has_its_activation(name: str, options: dict[str, Any]) -> None:
    model = ppvae.create(name, x_dim=4, activation="elu", **options)
    encoder = model.encoder()
    assert encoder is not None
    modules = [*model.modules(), *encoder.modules()]
    assert any(isinstance(module, nn.ELU) for module in modules)
    assert not any(isinstance(module, nn.ReLU) for module in modules)
    default = ppvae.create(name, x_dim=4, **options)
    assert not any(isinstance(module, nn.ELU) for module in default.modules())


def test_a_fit_keeps_its_activation(tmp_path: Any) -> None:
    model = ppvae.create("vae", x_dim=4, latent_dim=2, hidden=[6], likelihood="gaussian", activation="silu")
    fit = ppvae.fit(model, ppvae.load_data("iris"), epochs=1)
    fit.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert again.model.options["activation"] == "silu"
    x = ppvae.load_data("iris").test
    torch.testing.assert_close(again.posterior(x).phi, fit.posterior(x).phi)


@pytest.mark.parametrize("family", ["iaf", "spline"])
def test_the_networks_of_a_flow_have_its_activation(family: str) -> None:
    model = ppvae.create("vae", x_dim=4, latent_dim=2, hidden=[6], likelihood="gaussian")
    fit = ppvae.fit(model, ppvae.load_data("iris"), family=family, family_options={"activation": "tanh"}, epochs=1)
    net = fit.model.get_submodule("family_net")
    assert any(isinstance(module, nn.Tanh) for module in net.modules())
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())


def test_the_default_encoder_has_the_activation_of_the_strategy() -> None:
    class Scale(ppvae.Model):
        def model(self, x: torch.Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    data = ppvae.load_data("iris")
    fit = ppvae.fit(Scale(), data, inference_options={"activation": "gelu"}, epochs=1)
    assert any(isinstance(module, nn.GELU) for module in fit.strategy.modules())
    assert not any(isinstance(module, nn.ReLU) for module in fit.strategy.modules())
    with pytest.raises(ppvae.PpvaeError, match="activation is for the default encoder, and PPCA has its own"):
        ppvae.fit(ppvae.create("ppca", x_dim=4), data, inference_options={"activation": "gelu"}, epochs=1)


@pytest.mark.parametrize("name", ["vae", "dlgm", "gmm"])
def test_an_unknown_activation_is_refused(name: str) -> None:
    with pytest.raises(ppvae.PpvaeError, match="unknown activation 'rleu': did you mean 'relu'") as caught:
        ppvae.create(name, x_dim=4, activation="rleu")
    assert "\n" not in str(caught.value)
