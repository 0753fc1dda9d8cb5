"""The sizes of the batches of an epoch."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.errors import PpvaeError

_OTHERS = "a normalisation within each datum, such as LayerNorm or GroupNorm"


def batch_sizes(modules: nn.Module, num_data: int, batch_size: int) -> list[int]:
    """The size of each batch of an epoch, batch_size as often as possible and then the rest.

    Batch normalisation in training mode needs two data: there a rest of one datum is part of the batch before it.

    Args:
        modules: all that training calls.

    Raises:
        PpvaeError: every batch would be of one datum, under batch normalisation.
    """
    whole, rest = divmod(num_data, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if sizes[-1] > 1 or (layer := _batch_norm(modules)) is None:
        return sizes
    if sizes[0] == 1:
        why = "there is one training datum: give more" if num_data == 1 else "batch_size is 1: use 2 or more"
        raise PpvaeError(f"{layer} needs two data in every batch, and {why}, or use {_OTHERS}")
    return [*sizes[:-2], sizes[-2] + 1]


def refuse_moments_of_batches(strategy: nn.Module) -> None:
    """Refuse batch normalisation that has no moments of its own: φ of new data would depend on the data beside them."""
    for name, module in strategy.named_modules():
        if isinstance(module, _BatchNorm) and not module.track_running_stats:
            raise PpvaeError(
                f"{name} ({type(module).__name__}) keeps no running moments, so that φ of a datum would depend on the "
                f"data beside it after training, too: set track_running_stats=True, or use {_OTHERS}"
            )


def _batch_norm(modules: nn.Module) -> str | None:
    """The first batch normalisation that takes the moments of a batch, or None."""
    for name, module in modules.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            return f"{name} ({type(module).__name__})"
    return None
