"""The command line: `ppvae list | show | fit | evaluate | sample | report | compare | new`.

Every option comes from a typed signature: those of `commands`, of `ppvae.fit`, and of the model named.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.cli.messages import one_line, underscored
from ppvae.cli.parser import parse
from ppvae.errors import PpvaeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line on stderr where something is wrong."""
    given = [underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        command, options = parse(given)
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            COMMANDS[command](**options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"ppvae: {error}" if str(error) else "ppvae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        text = one_line(str(error))
        if not isinstance(error, PpvaeError):  # a fault of the user's own model, of the disk, or of ppvae
            text = f"{type(error).__name__}: {require.shorten(text)} (--debug shows where)"
        print(f"ppvae: error: {text}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
