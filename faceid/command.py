"""The ``faceid`` command line: its application, the ``emulator`` command, and its exit codes.

Applications add their own commands to ``app``. Exit codes: 0 if every request has a verdict, 1 if
a request failed, 2 if the input or the configuration is wrong and nothing was sent, 3 if a verdict
is negative and ``--require-passed`` is given, 4 if no request failed and some are waiting, 130 if
the command was interrupted.
"""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnknownCommandError

from faceid import __version__, redaction
from faceid.errors import FaceIdError, InvalidInput
from faceid.outputs import BrokenOutput, close_outputs, stderr

app = App(
    name="faceid",
    version=__version__,
    help="Verify files with Tencent Cloud Face ID: request an upload ticket, upload the file, "
    "check that it has not expired, call the target action.",
    help_format="markdown",
)
"""The application, to which commands are added."""


class Exit(Exception):
    """Raised to end the command with an exit code and without a message."""

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
    """Run the emulator of the service and its object store until interrupted with Ctrl-C.

    When it is ready, the emulator prints one line of JSON with its url, secret_id and secret_key.
    Every option can also be set with an environment variable, such as FACEID_EMULATOR_PORT.

    Parameters
    ----------
    host
        Address to listen on; default 127.0.0.1.
    port
        Port to listen on; default 8600; 0 picks a free port.
    window
        Seconds until an upload ticket and its file expire; default 7200.
    rates
        JSON object that maps actions to requests per second, to override the API's limits.
    skew
        Seconds by which the server's clock is ahead.
    data
        Folder for the objects; default: a temporary folder, removed when the emulator ends.
    secret_id
        The only secret ID to accept; default: a fixed example ID.
    secret_key
        The only secret key to accept; default: a fixed example key.
    token
        The only session token to accept; default: any.
    key_segments
        Number of segments of an object key: 3 as in the documentation, 4 as in newer replies.
    ready_file
        File to which the line of JSON is written, too.
    """
    # Imported here because it is slow to import and no other command needs it.
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
    """Run the command and end the process with an exit code of this module.

    ``tokens`` are the command's arguments; by default, those of the process. Errors of this library
    and wrong arguments are printed as one line, without a traceback.
    """
    redaction.install()
    # SIGTERM (a service manager) and SIGHUP (a closed terminal) are handled like Ctrl-C, so that
    # child processes are ended properly. `nohup` ignores SIGHUP, so that we survive the terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    code = _run(tokens)
    close_outputs()
    sys.exit(code)


def _run(tokens: Sequence[str] | None) -> int:
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except Exit as ending:
        return ending.code
    except CycloptsError as error:
        return _told(_usage_error(error))
    except InvalidInput as error:
        return _told(one_line(error))
    except FaceIdError as error:
        return _told(one_line(error), code=1)
    except BrokenOutput as error:
        return _told(error.reason, code=1) if error.reason else 0
    except KeyboardInterrupt:
        return 130
    return 0


def _usage_error(error: CycloptsError) -> str:
    """Return in one line what is wrong with a command's arguments."""
    if isinstance(error, MissingArgumentError) and not error.keyword:
        # The option or argument is not given at all. Cyclopts says that it lacks a value.
        assert error.argument
        command = " ".join(("faceid", *(error.command_chain or ())))
        return f"{error.argument.name} is missing: see {command} --help"
    error.verbose = False
    elsewhere = isinstance(error, UnknownCommandError) and app.help_epilogue
    return " ".join(f"{error} {elsewhere or ''}".split())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def one_line(error: FaceIdError) -> str:
    """Return the error in one line, with the location of the file that it is about.

    Only a command may show the location: see ``InvalidInput.location``.
    """
    location = error.location if isinstance(error, InvalidInput) else ""
    return redaction.redact(f"{error}: {location}" if location else str(error))


def fail(message: str, code: int = 2) -> NoReturn:
    """Print a message as one line to stderr, and end the command with an exit code."""
    sys.exit(_told(message, code))


def _told(message: str, code: int = 2) -> int:
    stderr.print(f"faceid: {redaction.redact(message)}", markup=False)
    return code
