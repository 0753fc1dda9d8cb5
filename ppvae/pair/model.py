"""The base class of a generative model and its variational family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ppvae.catalogue import MODELS
from ppvae.errors import PpvaeError
from ppvae.pair.family import Family
from ppvae.pair.local import Layout, Local, Phi
from ppvae.pair.sharing import distinct


class Model(nn.Module):
    """A generative model p_θ(x, z), its family q(z | φ) and its default encoder: one declaration of a pair.

    A subclass writes `model(x)`, a Pyro program with the local latents inside
    `pyro.plate("data", len(x))` at dim -1 and no data-set size. It may add `guide(x, phi)` with the
    declaration of its local parameters `self.phi = {name: Local(start, support)}`; without both the family
    is a mean field over the sites in a trace of `model`.

    A program sees x as [B, *event] and every latent as [S, B, *event], S particles.

    Hooks, each used where a subclass has it:
        encoder(): a new recognition network, x [B, *event] → features [B, H].
        guide_modules: names of submodules that belong to the guide (they train and freeze with φ). A weight that the
            model also has under another name belongs to θ.
        start(x): initialise θ from the training data, once, under the seed.
        log_prob(x): [B], where log p(x) is exact.
        exact_phi(x): φ of the true posterior under the current θ, where the family contains it.
        log_penalty(): scalar, log-prior of θ for MAP; is divided by N in training, and in no reported number.
    """

    catalogue: ClassVar = MODELS
    guide_modules: tuple[str, ...] = ()
    #: path/to/file.py:ClassName, where the class was read from a file
    _reference: str | None = None
    #: constructor arguments as given, from which a saved model is made again
    options: dict[str, Any]

    start: Callable[[Tensor], None]
    log_prob: Callable[[Tensor], Tensor]
    exact_phi: Callable[[Tensor], Phi]
    log_penalty: Callable[[], Tensor]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        given.pop("self", None)
        given.update(given.pop("kwargs", {}))
        self.__dict__["options"] = dict(given)
        return self

    def __init__(self) -> None:
        super().__init__()
        self.phi: Mapping[str, Local] = {}
        self.guide_family: Family | None = None

    def model(self, x: Tensor) -> None:
        """The generative process of x [B, *event], a Pyro program."""
        raise PpvaeError(f"{type(self).__name__} has no model(self, x): write its generative process")

    def guide(self, x: Tensor, phi: Phi) -> None:
        """The family q(z | φ); the default is a mean field in unconstrained space."""
        if self.guide_family is None:
            raise PpvaeError(f"{type(self).__name__} has no guide yet: ppvae.check(model, x) builds the default one")
        self.guide_family(x, phi)

    def encoder(self) -> nn.Module | None:
        """A new recognition network, or None for the default one."""
        return None

    def forward(self, x: Tensor) -> None:
        return self.model(x)

    def layout(self) -> Layout:
        return Layout(self.phi)

    def guide_parameters(self) -> list[nn.Parameter]:
        """The weights that the guide alone has; they train with the variational parameters."""
        theirs = [p for name in self.guide_modules for p in self.get_submodule(name).parameters()]
        inside = tuple(f"{name}." for name in self.guide_modules)
        named = self.named_parameters(remove_duplicate=False) if theirs else ()
        return distinct(theirs, but=(p for name, p in named if not name.startswith(inside)))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (nn.Module, nn.Parameter)) and hasattr(type(self), name):
            raise PpvaeError(
                f"{type(self).__name__}.{name} is a method of the model, which would hide a submodule of that name: "
                f"call the submodule something else, such as {name}_net"
            )
        super().__setattr__(name, value)


def overrides(model: Model, method: str) -> bool:
    """Whether the model's class writes the method (or hook) itself."""
    return getattr(type(model), method, None) is not getattr(Model, method, None)
