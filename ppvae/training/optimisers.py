"""The optimisers of θ and λ, with the options of each, which are those of `torch.optim`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.options import Options, option

if TYPE_CHECKING:
    from torch.optim import Optimizer


class OptimiserOptions(Options):
    """The options of an optimiser, beside its learning rate."""

    torch_name: ClassVar[str]
    fused: ClassVar[bool] = True

    def make(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimiser of parameter groups, each with its "params" and "lr"."""
        import torch

        extra = {"fused": True} if self.fused else {}
        return getattr(torch.optim, self.torch_name)(groups, **extra, **self.values())


class Adam(OptimiserOptions):
    """Adam (Kingma & Ba 2015)."""

    torch_name = "Adam"
    betas: tuple[float, float] = option(
        (0.9, 0.999), "decay of the averages of the gradient and of its square", at_least=0
    )
    eps: float = option(1e-8, "added to the denominator", at_least=0)
    weight_decay: float = option(0.0, "weight of ½‖θ‖² in the loss", at_least=0)
    amsgrad: bool = option(False, "divide by the greatest average so far (Reddi et al. 2018)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.betas) >= 1:
            raise PpvaeError(f"betas must be below 1, got {require.show(list(self.betas))}")


class AdamW(Adam):
    """Adam whose weight decay is not part of the gradient (Loshchilov & Hutter 2019)."""

    torch_name = "AdamW"
    weight_decay: float = option(
        0.01, "the fraction, times the learning rate, that each step removes from a weight", at_least=0
    )


class RMSprop(OptimiserOptions):
    """RMSprop (Hinton, Srivastava & Swersky 2012)."""

    torch_name, fused = "RMSprop", False
    alpha: float = option(0.99, "decay of the average of the squared gradient", at_least=0, at_most=1)
    eps: float = option(1e-8, "added to the denominator", at_least=0)
    weight_decay: float = option(0.0, "weight of ½‖θ‖² in the loss", at_least=0)
    momentum: float = option(0.0, "the part of the last step that goes into the next", at_least=0)
    centered: bool = option(False, "divide by the deviation of the gradient instead of its root mean square")


class SGD(OptimiserOptions):
    """Stochastic gradient descent, with momentum where that is given."""

    torch_name = "SGD"
    momentum: float = option(0.0, "the part of the last step that goes into the next", at_least=0)
    dampening: float = option(0.0, "the part of the gradient that does not enter the momentum", at_least=0, at_most=1)
    weight_decay: float = option(0.0, "weight of ½‖θ‖² in the loss", at_least=0)
    nesterov: bool = option(False, "take the gradient at the place where the momentum leads (Nesterov 1983)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise PpvaeError("nesterov needs momentum > 0 and dampening 0: change them, or remove nesterov")


OPTIMISERS: dict[str, type[OptimiserOptions]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


def optimiser_options(optimizer: str, options: Mapping[str, Any]) -> OptimiserOptions:
    """The options of the optimiser of that name.

    Raises:
        PpvaeError: an unknown name or option, or a value out of bounds.
    """
    kind = OPTIMISERS[require.one_of("optimizer", optimizer, OPTIMISERS)]
    try:
        return kind.of(options)
    except PpvaeError as error:
        raise PpvaeError(f"optimizer {optimizer}: {error}") from None
