"""The options of an optimiser are those of `torch.optim`."""

import inspect

import pytest
import torch

from ppvae.training.optimisers import OPTIMISERS, optimiser_options

#: how a step is carried out, which changes no number but for rounding
OF_IMPLEMENTATION = {"params", "lr", "maximize", "foreach", "capturable", "differentiable", "fused",
                     "decoupled_weight_decay", "kwargs"}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMISERS)
def test_names_and_defaults_are_those_of_torch(name: str) -> None:
    kind = OPTIMISERS[name]
    of_torch = inspect.signature(getattr(torch.optim, kind.torch_name).__init__).parameters
    theirs = {key: each.default for key, each in of_torch.items() if key not in {"self", *OF_IMPLEMENTATION}}
    assert {key: each.default for key, each in kind.options().items()} == theirs


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_steps_as_that_of_torch(name: str) -> None:
    options = {"weight_decay": 0.1, **({} if name.startswith("adam") else {"momentum": 0.9})}
    ours, theirs = (torch.nn.Parameter(torch.arange(3.0)) for _ in range(2))
    own = optimiser_options(name, options).make([{"params": [ours], "lr": 0.05}])
    reference = getattr(torch.optim, OPTIMISERS[name].torch_name)([theirs], lr=0.05, **options)
    for _ in range(5):
        for parameter, optimiser in ((ours, own), (theirs, reference)):
            optimiser.zero_grad()
            (parameter.sin() ** 2).sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, torch.arange(3.0))


def test_the_default_is_the_fused_adam() -> None:
    optimiser = optimiser_options("adam", {}).make([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}])
    reference = torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}], fused=True)
    assert type(optimiser) is torch.optim.Adam
    assert optimiser.defaults == reference.defaults
