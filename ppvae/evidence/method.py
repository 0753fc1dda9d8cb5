"""What a method of estimating log p(x) is: a name, the pairs it applies to, and a sampler of importance weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ppvae import require
from ppvae.compiled import CompiledJoint
from ppvae.errors import PpvaeError
from ppvae.fitted import Fit
from ppvae.model import Model
from ppvae.posterior import Posterior
from ppvae.target import Target

#: random numbers are drawn for fixed blocks of this many datapoints and particles
DATA_BLOCK, PARTICLE_BLOCK = 100, 50

#: what a pair may have, as the columns of the table of methods
Pair = Literal["continuous", "mixed", "enumerated", "summed", "drawn"]
PAIRS: dict[Pair, str] = {
    "continuous": "continuous latents",
    "mixed": "continuous latents, and discrete ones that the model sums out",
    "enumerated": "discrete latents alone, enumerated in the guide",
    "summed": "discrete latents alone, summed out by the model",
    "drawn": "discrete latents that the guide draws",
}


@dataclass(frozen=True)
class Block:
    """Positions of data for which random numbers are drawn together, some rows of which are wanted.

    Draws are made for the full block, so that those of a datum depend on its position and not on who else is wanted.

    Attributes:
        positions: [DATA_BLOCK] into the data; the last datum again beyond the end.
        rows: [B], which of them are wanted.
        data: all data [N, *event].
        joint: the model's log p(x, z), compiled, or None.
    """

    positions: Tensor
    rows: Tensor
    data: Tensor
    joint: CompiledJoint | None = None

    @property
    def wanted(self) -> Tensor:
        """Positions of the wanted rows in the data, [B]."""
        return self.positions[self.rows]

    @property
    def x(self) -> Tensor:
        """The wanted data [B, *event]."""
        return self.data[self.wanted]

    def normal(self, particles: int, *shape: int) -> Tensor:
        """Standard Normal noise [particles, B, *shape] of the wanted rows."""
        noise = torch.randn(particles, DATA_BLOCK, *shape, dtype=self.data.dtype, device=self.data.device)
        return noise[:, self.rows]

    def uniform(self, particles: int, *shape: int) -> Tensor:
        """Uniform noise on [0, 1), [particles, B, *shape], of the wanted rows."""
        noise = torch.rand(particles, DATA_BLOCK, *shape, dtype=self.data.dtype, device=self.data.device)
        return noise[:, self.rows]


@dataclass(frozen=True)
class Weighted:
    """Importance weights of draws: E exp(log_weight) = p(x).

    Attributes:
        log_weight: [s, B].
        bound: [s, B], whose mean is the bound of one draw; log_weight, unless a site is enumerated besides.
        exact: every value there is was summed over: the weight is p(x) itself.
    """

    log_weight: Tensor
    bound: Tensor
    exact: bool = False


class Guide(Protocol):
    """A Pyro program of x whose datapoints can be picked, such as a `ppvae.Posterior`."""

    def __call__(self, x: Tensor) -> Any: ...

    def select(self, index: Tensor) -> Guide: ...


class Sampler(Protocol):
    """A source of importance weights for each datum, with whatever it has learned about the data kept inside.

    Attributes:
        converged: [N] bool where something was optimised for each datum, else None.
    """

    @property
    def converged(self) -> Tensor | None: ...

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        """Draw for the block's wanted rows, `particles` in all, at most `size` of them in memory at once.

        The global generator is seeded for the block and these particles, and nothing else may be drawn from.
        """
        ...


@dataclass(frozen=True)
class Certain:
    """log p(x) known without draws.

    Attributes:
        log_marginal: [N].
        error: [N], an estimate of the numerical error.
    """

    log_marginal: Tensor
    error: Tensor


@dataclass
class Question:
    """What a method is asked: log p(x) of each datum under a fit.

    Attributes:
        x: data [N, *event].
        index: positions of x in the training set, or None.
        seed: of all draws.
        num_samples: draws that each datum will get.
        chunk_size: particles × datapoints at once.
        positions: [A] of the data that are wanted, in x.
        compile: run the model compiled.
        smooth: whether values that are no lower bounds are wanted besides.
        nearer: a guide of every datum that lies nearer to the posterior than q, where one is known.
    """

    fit: Fit
    x: Tensor
    index: Tensor | None
    seed: int
    num_samples: int
    chunk_size: int = DATA_BLOCK * PARTICLE_BLOCK
    progress: bool | None = False
    positions: Tensor | None = None
    compile: bool = False
    smooth: bool = False
    nearer: Guide | None = None

    @property
    def model(self) -> Model:
        return self.fit.model

    @cached_property
    def posterior(self) -> Posterior:
        """q of every datum, as the fit has it."""
        return self.fit.posterior(self.x, self.index, seed=self.seed)

    @cached_property
    def target(self) -> Target:
        """The continuous latents; raises PpvaeError where there are none, or a drawn discrete one."""
        return Target(self.model, self.x)

    @cached_property
    def joint(self) -> CompiledJoint | None:
        """log p(x, z) compiled, where that was asked for."""
        return CompiledJoint(self.model) if self.compile else None

    @property
    def everyone(self) -> Tensor:
        """Positions of all data, [N]."""
        return torch.arange(len(self.x), device=self.x.device)

    def at(self, positions: Tensor, num_samples: int | None = None) -> Question:
        """The same about some of the data, what is known of q kept."""
        other = copy.copy(self)
        other.positions = positions.sort().values
        other.num_samples = self.num_samples if num_samples is None else num_samples
        return other

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """(number, block) of every block that has wanted data."""
        size = len(self.x)
        wanted = self.everyone if self.positions is None else self.positions
        for number in range((size + DATA_BLOCK - 1) // DATA_BLOCK):
            first = number * DATA_BLOCK
            rows = wanted[(wanted >= first) & (wanted < first + DATA_BLOCK)] - first
            if len(rows):
                positions = (first + torch.arange(DATA_BLOCK, device=self.x.device)).clamp_max(size - 1)
                yield number, Block(positions, rows, self.x, self.joint)


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        prepare: (question, **options) → what gives the answer.
        applies: the kinds of pairs it takes.
        summary: the first line of its documentation.
    """

    name: str
    prepare: Callable[..., Sampler | Certain]
    applies: tuple[Pair, ...]

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.prepare) or "").partition("\n")[0]

    def options(self) -> dict[str, inspect.Parameter]:
        """Its keyword options."""
        parameters = inspect.signature(self.prepare).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse an option it does not have."""
        for option in options:
            try:
                require.one_of("option", option, self.options())
            except PpvaeError as error:
                raise PpvaeError(f"{self.name}: {error}") from None


METHODS: dict[str, Method] = {}


def method(name: str, *, applies: tuple[Pair, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Function decorator: make a function (question, **options) → `Sampler` or `Certain` a method of `log_marginal`."""

    def decorate(prepare: Callable[..., Any]) -> Callable[..., Any]:
        METHODS[name] = Method(name, prepare, applies)
        return prepare

    return decorate


def table() -> str:
    """Which method applies to which pair, in Markdown."""
    lines = [f"| method | {' | '.join(PAIRS)} | what it is |", "|---" * (len(PAIRS) + 2) + "|"]
    for known in METHODS.values():
        cells = ["✓" if pair in known.applies else "–" for pair in PAIRS]
        lines.append(f"| `{known.name}` | {' | '.join(cells)} | {known.summary.rstrip('.')} |")
    return "\n".join(lines)
