"""Ctrl-C during training."""

from __future__ import annotations

import signal
import threading


class Interruptions:
    """Inside the block, a first Ctrl-C is noted, which a call reports; a second one interrupts at once."""

    def __init__(self, listen: bool) -> None:
        # Python hands signals to its main thread only
        self.listen = listen and threading.current_thread() is threading.main_thread()
        self.noted = False

    def __call__(self) -> bool:
        return self.noted

    def __enter__(self) -> Interruptions:
        if self.listen:
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self.listen:
            signal.signal(signal.SIGINT, self.before)

    def _note(self, *signal_and_frame: object) -> None:
        self.noted = True
        signal.signal(signal.SIGINT, self.before)
