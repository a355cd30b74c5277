"""The ``faceid`` command as far as it needs no Prefect, and how every command ends.

``deployments.cli`` adds the commands that run flows. Exit codes (design §5.2): 0 every request has
a verdict, 1 some request failed or waits, 2 the input or the configuration is wrong and nothing
was sent, 3 with ``--require-passed`` some verdict is negative, 130 interrupted.
"""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter
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


@app.command
def emulator(
    *,
    host: str | None = None,
    port: int | None = None,
    window: int | None = None,
    rates: str | None = None,
    skew: float | None = None,
    data: Path | None = None,
    secret_id: str | None = None,
    secret_key: str | None = None,
    token: str | None = None,
    key_segments: Literal[3, 4] | None = None,
    ready_file: Annotated[Path | None, Parameter(env_var="FACEID_EMULATOR_READY_FILE")] = None,
) -> None:
    """Run the emulator of the service and its object store, until Ctrl-C.

    When it listens it prints one line of JSON with its url, secret_id and secret_key. Every flag
    is also FACEID_EMULATOR_<FLAG>.

    Parameters
    ----------
    host
        Address to listen on; 127.0.0.1 if not given.
    port
        8600 if not given; 0 picks a free one.
    window
        Seconds that a ticket and its file live; 7200 if not given.
    rates
        JSON, action to requests per second, where they should differ from the API's.
    skew
        Seconds by which the server's clock is ahead.
    data
        Folder for the objects; else a temporary one, removed at the end.
    secret_id
        The key's ID that it accepts.
    secret_key
        The key that it accepts.
    token
        The session token that it accepts; else any.
    key_segments
        Segments of an object's key: 3 as in the documentation, or 4 as in newer replies.
    ready_file
        Gets the same line of JSON.
    """
    # Not needed by the other commands, and slower to import than all of them.
    from faceid.emulator import BadOption, CannotListen, EmulatorOptions, serve

    given: dict[str, object] = {
        "host": host,
        "port": port,
        "window": window,
        "skew": skew,
        "data": data,
        "secret_id": secret_id,
        "secret_key": secret_key,
        "token": token,
        "key_segments": key_segments,
    }
    try:
        if rates is not None:
            given["rates"] = json.loads(rates)
        options = EmulatorOptions.read(**{k: v for k, v in given.items() if v is not None})
        serve(options, ready_file)
    except json.JSONDecodeError:
        fail('--rates: must be JSON, such as {"CreateUploadUrl": 40}')
    except (BadOption, CannotListen) as error:
        fail(str(error))


def run(tokens: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process. Never a traceback for what a user can mend."""
    redaction.install()
    # Ended by a service manager or a closed terminal is interrupted, too: children end in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
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


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and the end."""
    stderr.print(f"faceid: {redaction.redact(message)}", markup=False)
    sys.exit(code)
