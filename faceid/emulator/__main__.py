"""``python -m faceid.emulator``: an emulator configured by environment variables only."""

import sys

from faceid.emulator.options import BadOption, EmulatorOptions
from faceid.emulator.server import CannotListen, serve


def main() -> int:
    """Run the emulator until it is ended, and return the exit code.

    The exit code is 0 if the emulator ran, and 2 if it could not start.
    """
    try:
        serve(EmulatorOptions.read())
    except (BadOption, CannotListen) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
