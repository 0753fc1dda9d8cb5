"""What a schedule multiplies the learning rate by."""

import math

import pytest

from ppvae.errors import PpvaeError
from ppvae.training.schedule import SCHEDULES, Schedule, make_schedule
from ppvae.training.settings import Settings

EPOCH = 7  # steps in a pass over the data


def curve(name: str, num_steps: int = 70, **options: float) -> list[float]:
    schedule = make_schedule(name, options, 1e-3)
    return [schedule.multiplier(step, EPOCH, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_starts_or_ends_at_the_learning_rate_and_never_exceeds_it(name: str) -> None:
    values = curve(name)
    assert 1.0 in (values[0], values[-1])
    assert all(0 <= value <= 1 for value in values)


def test_constant() -> None:
    assert set(curve("constant")) == {1.0}


def test_step_changes_after_whole_epochs() -> None:
    values = curve("step", every=2, factor=0.1)
    assert values[: 2 * EPOCH] == [1.0] * 14
    assert values[2 * EPOCH : 4 * EPOCH] == pytest.approx([0.1] * 14)
    assert values[-1] == pytest.approx(1e-4)


def test_cosine_falls_to_its_end() -> None:
    values = curve("cosine", final=0.2)
    assert values[35] == pytest.approx(0.6)  # half way: the mean of 1 and final
    assert values == sorted(values, reverse=True)
    schedule = make_schedule("cosine", {"final": 0.2}, 1.0)
    assert schedule.multiplier(70, EPOCH, 70) == schedule.multiplier(99, EPOCH, 70) == pytest.approx(0.2)
    assert schedule.multiplier(10, EPOCH, 70) == pytest.approx(0.2 + 0.8 * math.cos(math.pi / 14) ** 2)


def test_warm_up_rises_in_epochs_or_steps() -> None:
    assert curve("warm-up")[:8] == pytest.approx([step / 7 for step in range(1, 8)] + [1.0])
    assert curve("warm-up", epochs=2)[13] == 1.0
    assert curve("warm-up", epochs=2)[6] == pytest.approx(0.5)
    assert curve("warm-up", steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_table_has_the_published_learning_rates() -> None:
    """Burda, Grosse & Salakhutdinov (2016): 3^i passes at 0.001 · 10^(−i/7), here the first three of them."""
    pairs = [(3**i, 1e-3 * 10 ** (-i / 7)) for i in range(3)]
    settings = Settings(lr=0.002, schedule=pairs)  # pyright: ignore[reportArgumentType]
    schedule = settings.of_schedule()
    for epoch in range(20):
        which = 0 if epoch < 1 else 1 if epoch < 4 else 2
        for step in (epoch * EPOCH, epoch * EPOCH + EPOCH - 1):
            assert settings.lr * schedule.multiplier(step, EPOCH, 140) == pytest.approx(pairs[which][1], rel=1e-15)


def test_a_schedule_without_a_multiplier_says_what_to_write() -> None:
    with pytest.raises(PpvaeError, match="write it"):
        Schedule().multiplier(0, 1, 1)
