"""Amortized inference: φᵢ = f_λ(xᵢ), one encoder for all datapoints.

The recognition network maps x to features, and a linear head of the width of φ maps features to the local
parameters. The head's weights start at zero and its bias at the declared φ, so that training starts from the same
bound as under every other strategy. Kingma & Welling (2014), "Auto-Encoding Variational Bayes"; Rezende, Mohamed &
Wierstra (2014).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.catalogue import register
from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.nn.networks import default_encoder
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.sharing import copied, shared_names
from ppvae.variational.bound import Bound
from ppvae.variational.strategy import Strategy


@register("amortized", compare={})
class Amortized(Strategy):
    """φ = head(encoder(x)).

    Args:
        encoder: x [B, *event] → features [B, ...]; the model's own where None, else a default network. It is copied,
            and what it shares with the model stays shared.
        activation: of the default network: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or
            "sigmoid"; where None, "relu".
    """

    def __init__(
        self, model: Model, x: Tensor, *, encoder: nn.Module | None = None, activation: str | None = None
    ) -> None:
        super().__init__(model, x)
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise PpvaeError(f"encoder must be a torch.nn.Module, got {type(encoder).__name__}")
        if not self.layout.width:  # every latent is summed out, and φ is empty
            return
        own = model.encoder() if encoder is None else copied(encoder, beside=model)[0]
        if own is not None and activation is not None:
            whose = "one is given" if encoder is not None else f"{type(model).__name__} has its own"
            raise PpvaeError(
                f"activation is for the default encoder, and {whose}: choose it there, and remove activation here"
            )
        self.encoder = (
            default_encoder(x, activation="relu" if activation is None else activation) if own is None else own
        )
        self.encoder.to(x.device, x.dtype)
        with torch.no_grad():
            training = self.encoder.training
            try:
                features = self.encoder.eval()(x[:2])
            except Exception as error:
                raise PpvaeError(
                    f"the encoder fails on x [B, {', '.join(map(str, x.shape[1:]))}]: {require.show(error)}"
                ) from error
            self.encoder.train(training)
        if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != len(x[:2]):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise PpvaeError(f"the encoder maps {len(x[:2])} datapoints to {shape}: it must give [B, features]")
        self.head = nn.Linear(features[0].numel(), self.layout.width)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(self.start)
        self._of_model = frozenset(shared_names(self, model))

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        if not self.layout.width:
            return {}
        return self.layout.unpack(self.propose(batch.x))

    def propose(self, x: Tensor) -> Tensor:
        """The encoder's rows [B, width]."""
        # φ in full precision, also after networks in half precision, which Cholesky factors do not support
        return self.head(self.encoder(x).flatten(1)).to(self.start.dtype)

    def warm_start(self, posterior: Callable[[Tensor], Phi], other: Strategy, x: Tensor) -> None:
        """Start from the other's encoder, if it has one of the same shape; what the model shares stays the model's."""
        if isinstance(other, Amortized) and self.layout.width and other.layout.width:
            # compared first, as loading would copy the entries that fit and no others
            mine, theirs = self.state_dict(), other.state_dict()
            if {name: t.shape for name, t in mine.items()} == {name: t.shape for name, t in theirs.items()}:
                theirs.update({name: mine[name] for name in self._of_model})
                self.load_state_dict(theirs)
