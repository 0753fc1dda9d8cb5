"""What inference of new data costs: rows in one batch against one by one; semi-amortized steps against plain ones.

pytest tests/benchmarks/test_inference_time.py --benchmark-enable
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import ppvae

Paired = Callable[..., dict[str, float]]
Clock = Callable[[Callable[[], object]], float]


def bits(count: int, x_dim: int) -> torch.Tensor:
    return torch.bernoulli(torch.rand(count, x_dim, generator=torch.Generator().manual_seed(0)))


def fitted(x_dim: int, inference: str, steps: int, **options: object) -> ppvae.Fit:
    x = bits(500, x_dim)
    model = ppvae.create("vae", x_dim=x_dim, latent_dim=20, hidden=(200,))
    data = ppvae.Data("bits", x, x[:10], x[:10], "bernoulli", "static")
    return ppvae.fit(
        model, data, inference, inference_options=options, batch_size=100, epochs=10**6, steps=steps,
        eval_every=10**6, patience=None, progress=False,
    )  # fmt: skip


def test_rows_of_new_data_at_once(rounds: int, paired: Paired, clock: Clock) -> None:
    """φ of 10,000 new data in one run; one by one is timed on a few and multiplied."""
    many, few = (10_000, 20) if rounds > 1 else (40, 2)
    for name, x_dim in (("digits", 64), ("MNIST", 784)):
        fit = fitted(x_dim, "per-datapoint", 1, max_steps=200)
        x = bits(many, x_dim)
        paired(
            f"φ of {many:,} new data at the size of {name}",
            batched=lambda fit=fit, x=x: clock(lambda: fit.posterior(x)),
            one_by_one=lambda fit=fit, x=x: (
                clock(lambda: [fit.posterior(x[i : i + 1]) for i in range(few)]) * many / few
            ),
        )


def test_semi_amortized_steps(rounds: int, paired: Paired) -> None:
    """A step with T refinements costs about 1 + T plain steps; ratio / (1 + T) is what the bookkeeping adds."""
    steps = 100 if rounds > 1 else 3

    def seconds(inference: str, **options: object) -> float:
        fit = fitted(784, inference, steps, **options)
        return fit.seconds / fit.history[-1]["step"]

    paired(
        "training step, VAE 784-200-20, B = 100",
        amortized=lambda: seconds("amortized"),
        **{f"semi-amortized, T = {t}": lambda t=t: seconds("semi-amortized", refine_steps=t) for t in (1, 5)},
    )
