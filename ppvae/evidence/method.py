"""A method that estimates log p(x): a name, the pairs that it applies to, and a sampler of importance weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ppvae import require
from ppvae.blocks import Block
from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.problem import Problem
from ppvae.pair.posterior import Guide
from ppvae.pair.sites import Draws

#: kinds of pairs, the columns of the table of methods
PairKind = Literal["continuous", "mixed", "enumerated", "summed", "drawn"]
PAIRS: dict[PairKind, str] = {
    "continuous": "continuous latents",
    "mixed": "continuous latents, and discrete ones that the model sums out",
    "enumerated": "discrete latents alone, enumerated in the guide",
    "summed": "discrete latents alone, summed out by the model",
    "drawn": "discrete latents that the guide draws",
}


#: the number of draws of each datum that are scored again in another precision
CHECKED = 2


@dataclass(frozen=True)
class Weighted:
    """Importance weights of draws: E exp(log_weight) = p(x).

    Attributes:
        log_weight: [s, B].
        bound: [s, B], whose mean is the bound of one draw; equal to log_weight, unless some sites are enumerated.
        exact: all values were summed over, so that the weight is p(x) itself.
        draws: some of the draws behind the weights, which can be scored again, or None.
        guide: of these draws, for the wanted rows of the block, or None.
    """

    log_weight: Tensor
    bound: Tensor
    exact: bool = False
    draws: Draws | None = None
    guide: Guide | None = None


class Sampler:
    """A source of importance weights for each datum; it may keep what it has learned about the data.

    Attributes:
        converged: [N] bool where something was optimised for each datum, else None.
    """

    converged: Tensor | None = None

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        """Draw for the block's wanted rows, `particles` in all, at most `size` of them in memory at once.

        The global generator is seeded for the block and these particles; all random numbers must come from it.
        """
        raise NotImplementedError

    @property
    def start_guide(self) -> Guide | None:
        """A guide that is closer to the posterior than q, from which another method may start, or None."""
        return None

    def with_student_tails(self, x: Tensor) -> Sampler | None:
        """The same with a Student t in place of each Gaussian, or None where it has no Gaussian; x is some data."""
        return None


@dataclass(frozen=True)
class Known:
    """log p(x) known without draws.

    Attributes:
        log_marginal: [N].
        error: [N], an estimate of the numerical error.
    """

    log_marginal: Tensor
    error: Tensor


def prepared(problem: Problem, name: str, options: Mapping[str, Any] | None = None) -> Sampler | Known:
    """The sampler or the known value that a registered method returns for a problem."""
    return METHODS[name](problem, **(options or {}))


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The keyword options of a method."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options_of(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an option that a method does not have."""
    for option in options:
        try:
            require.one_of("option", option, options_of(name))
        except PpvaeError as error:
            raise PpvaeError(f"{name}: {error}") from None


def table() -> str:
    """Which method applies to which pair, in Markdown."""
    lines = [f"| method | {' | '.join(PAIRS)} | what it is |", "|---" * (len(PAIRS) + 2) + "|"]
    for name in METHODS:
        cells = ["✓" if pair in METHODS.facts(name)["applies"] else "–" for pair in PAIRS]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {METHODS.summary(name).rstrip('.')} |")
    return "\n".join(lines)
