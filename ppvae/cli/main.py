"""The command line: `ppvae list | show | fit | evaluate | sample | report | compare | new`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from ppvae import require
from ppvae.cli.parser import overview, parse, underscored
from ppvae.errors import PpvaeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line on stderr where something is wrong."""
    words = [underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words in (["-h"], ["--help"]):
        print(overview())
        return 0
    try:
        command = parse(words)
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # what read the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"ppvae: {error}" if str(error) else "ppvae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        if not isinstance(error, PpvaeError):  # a fault of the user's own model, of the disk, or of ppvae
            text = f"{type(error).__name__}: {require.shorten(text)} (--debug shows where)"
        print(f"ppvae: error: {text}", file=sys.stderr)
        return 2
    return 0
