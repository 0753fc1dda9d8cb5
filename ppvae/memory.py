"""The C library's handling of memory that torch frees."""

from __future__ import annotations

import torch

#: just below the 32 MiB above which glibc does not adapt its thresholds
_LARGEST = 31 * 2**20


def keep_freed_pages() -> None:
    """Let glibc keep the pages of freed tensors, up to 62 MiB, for the next ones.

    By default tensors of a few MiB are unmapped when freed, and page faults then cost as much as the arithmetic on
    their successors. Freeing one block of nearly 32 MiB raises its thresholds; the block is never touched, so it
    takes no memory. Other C libraries are not affected.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
