"""Errors of a user's programs, explained in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppvae.errors import CheckError
from ppvae.pair.model import Model

#: layers whose output for one datum depends on the batch or on chance, while they train
_UNSOUND = (torch.nn.modules.batchnorm._NormBase, torch.nn.modules.dropout._DropoutNd, torch.nn.AlphaDropout)


def layers_in_training_mode(model: Model) -> str:
    """A sentence about the layers that make a datum depend on its batch or on chance; empty if there are none."""
    layers = [f"{n} ({type(m).__name__})" for n, m in model.named_modules() if isinstance(m, _UNSOUND) and m.training]
    if not layers:
        return ""
    return f"module {', '.join(layers)} is in training mode: use eval() or a layer without batch statistics"


@contextmanager
def explained(name: str, trained: Model | None = None) -> Iterator[None]:
    """Turn any error of the programs into one line with the model's name, and layers of `trained` that may cause it."""
    try:
        yield
    except Exception as error:
        # Pyro's tracer adds the shapes of all sites below the message
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        if isinstance(error, KeyError | AttributeError | TypeError):
            text = f"{type(error).__name__}: {text}"
        if not text.startswith(name):
            text = f"{name}: {text}"
        if "Shape mismatch inside plate" in text:
            text += " (is .to_event(1) missing?)"
        if "within the support" in text:
            text = f"{text.removesuffix(':')} (does the likelihood suit the treatment of the data?)"
        if trained is not None and (layers := layers_in_training_mode(trained)):
            text += f"; {layers}"
        raise CheckError(text) from error
