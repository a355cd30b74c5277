"""``python -m faceid.emulator``: an emulator set up by the environment alone."""

import sys

from faceid.emulator.options import BadOption, EmulatorOptions
from faceid.emulator.server import CannotListen, serve


def main() -> int:
    """The exit code: 0 when it was told to end, 2 when it could not begin."""
    try:
        serve(EmulatorOptions.read())
    except (BadOption, CannotListen) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
