"""The ``faceid`` command as far as it needs no Prefect, and how every command ends.

``deployments.cli`` adds the commands that run flows. Exit codes (design §5.2): 0 every request has
a verdict, 1 some request failed or waits, 2 the input or the configuration is wrong and nothing
was sent, 3 with ``--require-passed`` some verdict is negative, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError
from rich.console import Console

from faceid import __version__, redaction
from faceid.errors import FaceIdError, InvalidInput

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress and errors: without colour where it is no terminal."""

app = App(
    name="faceid",
    version=__version__,
    help="Takes files to Tencent Cloud Face ID: ticket, upload, expiry check, target action.",
    help_format="markdown",
)


class Exit(Exception):
    """Ends the command with an exit code; what there was to say was said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def run(tokens: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process. Never a traceback for what a user can mend."""
    redaction.install()
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except Exit as ending:
        sys.exit(ending.code)
    except CycloptsError as error:
        error.verbose = False
        fail(" ".join(str(error).split()))
    except InvalidInput as error:
        fail(str(error))
    except FaceIdError as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and the end."""
    stderr.print(f"faceid: {redaction.redact(message)}", markup=False)
    sys.exit(code)
