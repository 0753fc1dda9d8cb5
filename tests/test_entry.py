"""Public calls do not depend on the autograd state of the caller, nor on other threads."""

import inspect
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import ppvae
from ppvae.entry import entry

#: public functions that neither run programs nor draw
NO_PROGRAMS = {
    "available": "reads names of files",
    "register": "decorates a class",
    "list_models": "reads names of files",
    "list_inference": "reads names of files",
}
SMALL: dict[str, Any] = {"x_dim": 64, "hidden": [6], "latent_dim": 2}


def test_every_public_function_is_an_entry() -> None:
    functions = {name for name in ppvae.__all__ if inspect.isfunction(getattr(ppvae, name))}
    unguarded = {name for name in functions if not hasattr(getattr(ppvae, name), "__ppvae_entry__")}
    assert unguarded == set(NO_PROGRAMS)
    for kind in (ppvae.Pair, ppvae.Fit):
        assert hasattr(kind.posterior, "__ppvae_entry__")


def digits() -> ppvae.Data:
    return ppvae.load_data("digits", num_train=60)


def fitted(seed: int = 0, **options: Any) -> ppvae.Fit:
    return ppvae.fit(ppvae.create("vae", **SMALL), digits(), epochs=1, seed=seed, **options)


@cache
def model() -> ppvae.Model:
    """Made once: threads of the test itself must not share torch's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ppvae.create("vae", **SMALL)


CALLS: dict[str, Callable[[ppvae.Fit, ppvae.Data], Any]] = {
    "fit": lambda fit, data: ppvae.fit(model(), data, epochs=1).weights(),
    "fit rows": lambda fit, data: ppvae.fit(model(), data, "per-datapoint", epochs=1).weights(),
    "semi-amortized": lambda fit, data: ppvae.fit(model(), data, "semi-amortized", steps=2).weights(),
    "check": lambda fit, data: ppvae.check(model(), data.test[:7]),
    **{
        method: lambda fit, data, method=method: ppvae.log_marginal(fit, data.test[:5], num_samples=30, method=method)
        for method in ("importance", "refined", "laplace", "ais", "prior", "auto")
    },
    "evaluate": lambda fit, data: ppvae.evaluate(fit, data, num_samples=20, num_test=4).row.log_marginal,
    "gaps": lambda fit, data: ppvae.gaps(fit, data.test[:3]),
    "sample": lambda fit, data: ppvae.sample(fit, 4).x,
    "reconstruct": lambda fit, data: ppvae.reconstruct(fit, data.test[:3]).mean,
    "posterior": lambda fit, data: fit.posterior(data.test[:3]).phi,
    "sbc": lambda fit, data: ppvae.sbc(fit, num_data=20, num_draws=39),
    "gradient_variance": lambda fit, data: ppvae.gradient_variance(fit, data.test[:4], repeats=3),
}


def same(one: Any, other: Any) -> bool:
    """To the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if hasattr(one, "data_vars"):
        return all(same(one[name].values, other[name].values) for name in one.data_vars if "seconds" not in str(name))
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return np.array_equal(one, other, equal_nan=True)
    return bool(np.all(one == other))


@pytest.fixture(scope="module")
def fit() -> ppvae.Fit:
    return fitted()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradients_do_not_matter(name: str, mode: Any, fit: ppvae.Fit) -> None:
    """Nor that the data were made without; the mode holds again afterwards."""
    expected = CALLS[name](fit, digits())
    with mode():
        plain = digits()
        made_there = ppvae.Data(
            plain.name, plain.train.clone(), plain.valid.clone(), plain.test.clone(), "bernoulli", "binary"
        )
        found = CALLS[name](fit, made_there)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert same(found, expected)


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls that start at once; raises the first error."""
    results: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(i: int) -> None:
        start.wait()
        try:
            results[i] = calls[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_threads_get_what_each_gets_alone(fit: ppvae.Fit) -> None:
    data = digits()
    names = ["fit", "importance", "sample", "refined", "gaps", "check"]
    alone = [CALLS[name](fit, data) for name in names]
    together = in_threads([lambda name=name: CALLS[name](fit, data) for name in names])
    for name, one, other in zip(names, alone, together, strict=True):
        assert one is None or same(other, one), name
    assert same(CALLS["importance"](fit, data), alone[1])


def test_an_error_in_a_thread_lets_the_others_run(fit: ppvae.Fit) -> None:
    data = digits()
    good = CALLS["importance"](fit, data)

    def bad() -> str:
        with pytest.raises(ppvae.PpvaeError):
            ppvae.log_marginal(fit, data.test[:, :3])
        return "refused"

    results = in_threads([bad, lambda: CALLS["importance"](fit, data), bad])
    assert results[0] == results[2] == "refused"
    assert same(results[1], good)


def test_an_entry_may_call_another() -> None:
    @entry
    def inner() -> bool:
        return torch.is_grad_enabled()

    @entry
    def outer() -> bool:
        return inner()

    with torch.no_grad():
        assert outer()
        assert not torch.is_grad_enabled()
