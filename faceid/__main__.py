"""``python -m faceid``, and the console script ``faceid``."""

import importlib

from faceid.command import app, run


def main() -> None:
    # By name: nothing in this package may depend on the folders beside it, which a wheel of it
    # does not carry.
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
        app.help_epilogue = "The flows and their commands are in a checkout of faceid-flows."
    run()


if __name__ == "__main__":
    main()
