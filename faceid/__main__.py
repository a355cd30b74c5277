"""Entry point of ``python -m faceid`` and of the console script ``faceid``."""

import importlib

from faceid.command import app, run


def main() -> None:
    """Run the ``faceid`` command line, with the commands that need Prefect if they are installed.

    Ends the process with one of the exit codes of ``faceid.command``.
    """
    # Imported by name, because this package must not depend on the other folders of the checkout,
    # which are not part of its wheel.
    try:
        importlib.import_module("deployments.cli")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in (
            "deployments",
            "flows",
            "tasks",
            "prefect",
        ):
            raise
        app.help_epilogue = "More commands are available in a checkout of faceid-flows."
    run()


if __name__ == "__main__":
    main()
