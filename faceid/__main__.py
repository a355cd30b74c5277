"""Entry point of ``python -m faceid`` and of the console script ``faceid``."""

import importlib
from importlib.util import find_spec

from faceid.command import app, run

ELSEWHERE = (
    "The commands that deliver requests are in a checkout of faceid-flows, after `make install`: "
    "the installed package has the Python library and the emulator only."
)


def main() -> None:
    """Run the ``faceid`` command line, with the commands that need Prefect if they are installed.

    Ends the process with one of the exit codes of ``faceid.command``.
    """
    if _has_flows():
        # Imported by name, because this package must not depend on the other folders of the
        # checkout, which are not part of its wheel.
        importlib.import_module("deployments.cli")
    else:
        app.help_epilogue = ELSEWHERE
    run()


def _has_flows() -> bool:
    try:
        return bool(find_spec("prefect") and find_spec("deployments.cli"))
    except ModuleNotFoundError:  # no package `deployments`
        return False


if __name__ == "__main__":
    main()
