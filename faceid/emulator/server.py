"""Running an emulator: in the main thread until a signal comes, or in a thread of its own."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from faceid.emulator.app import create_app
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import CUT_OFF, TRANSPORT
from faceid.emulator.options import PREFIX, BadOption, EmulatorOptions
from faceid.emulator.remote import EmulatorControl

_KEEP_ALIVE_SECONDS = 120
"""Time until an idle connection is closed. It is long, so that the server does not close a
connection that a client is about to reuse."""
_GRACE_SECONDS = 1
"""Time for requests to finish when the server shuts down."""
_WAITING = 2048
"""Maximum number of connections that wait to be accepted."""


class CannotListen(RuntimeError):
    """Raised if the address is in use or not available. The message is one line."""


class EmulatorProtocol(HttpToolsProtocol):
    """Lets the application cut connections, and answer clients that stop sending within a body."""

    # The pyright comments are needed because uvicorn types a scope as a closed TypedDict, and
    # asyncio types `eof_received` as returning nothing, although both allow more.

    def on_message_begin(self) -> None:
        """Give the application access to the connection's transport, in the scope."""
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # pyright: ignore[reportAssignmentType]
        scope[TRANSPORT] = self.transport

    def eof_received(self) -> bool | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Handle a client that stops sending.

        Returns ``True`` if the connection stays open for a reply.
        """
        cycle = self.cycle
        if not cycle or cycle.response_complete or not cycle.more_body:
            return None
        # The rest of the body will not arrive, but the client may still read the answer
        # (documented: IncompleteBody), after which the connection is closed.
        scope: dict[str, Any] = cycle.scope  # pyright: ignore[reportAssignmentType]
        scope[CUT_OFF] = True
        cycle.more_body = cycle.keep_alive = False
        cycle.message_event.set()
        return True


class _Server(uvicorn.Server):
    def __init__(self, emulation: Emulation, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(emulation),
                http=EmulatorProtocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                # URLs must not be logged. uvicorn's warnings and errors go to stderr.
                access_log=False,
                log_config=None,
                # The application sends these headers itself: `Date` follows the movable clock, and
                # `Server` has the value of the real store.
                date_header=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._emulation = emulation
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._emulation.ending.set()
        # Clients that do not finish their requests are cut off before uvicorn would cancel the
        # requests, which it would log as errors.
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._cut_off)
        await super().shutdown(sockets=sockets)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn raises signals again after its shutdown; `serve` returns normally instead.
        yield


class _Listening:
    """A listening socket, a folder for the objects, and the emulation that uses them.

    ``close`` closes the socket, and removes the folder if it is a temporary one.
    """

    def __init__(self, options: EmulatorOptions) -> None:
        with ExitStack() as stack:
            self.socket = stack.enter_context(_listen(options.host, options.port))
            if options.data:
                folder = options.data
            else:
                temporary = tempfile.TemporaryDirectory(
                    prefix="faceid-emulator-", ignore_cleanup_errors=True
                )
                folder = Path(stack.enter_context(temporary))
            port: int = self.socket.getsockname()[1]
            # A server that listens on all addresses is reached at the loopback address. (S104 is
            # about binding to all interfaces, which does not happen here.)
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)  # noqa: S104 - to connect to, not to listen on
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            try:
                self.emulation = Emulation(options, folder, (host, port))
            except OSError as error:
                raise BadOption(f"{PREFIX}DATA: {folder}: {error.strerror}") from None
            self.close = stack.pop_all().close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given explicitly. Without it, each answer,
    # which is sent in two parts, would wait 40 ms for the client's acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_WAITING)
        return listening
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise CannotListen(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port, 0 for a "
            "free one"
        ) from None


def serve(options: EmulatorOptions, ready_file: Path | None = None) -> None:
    """Run an emulator until SIGINT or SIGTERM is received, and then return.

    When the emulator is ready, it writes one line of JSON with ``url``, ``secret_id`` and
    ``secret_key`` to stdout and to ``ready_file``. A ready file of an earlier emulator is removed
    first. This must be called in the main thread. Raises ``CannotListen`` if the address cannot be
    used, and ``BadOption`` if the folder for the objects cannot be used.
    """
    if ready_file:
        ready_file.parent.mkdir(parents=True, exist_ok=True)
        ready_file.unlink(missing_ok=True)
    with _Listening(options) as listening:
        line = json.dumps(
            {
                "url": listening.url,
                "secret_id": options.secret_id,
                "secret_key": options.secret_key.get_secret_value(),
            }
        )

        def announce() -> None:
            if ready_file:
                _write_at_once(ready_file, line + "\n")
            with suppress(BrokenPipeError):  # nobody reads it, and the emulator is still of use
                sys.stdout.write(line + "\n")
                sys.stdout.flush()

        server = _Server(listening.emulation, announce)
        with _ending_on_signals(server):
            server.run(sockets=[listening.socket])


@contextmanager
def _ending_on_signals(server: uvicorn.Server) -> Generator[None]:
    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_at_once(path: Path, text: str) -> None:
    """Write a file atomically, so that no reader sees a part of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


class Emulator(EmulatorControl):
    """An emulator in a thread of this process, by default on a free port.

    Example::

        with Emulator() as emulator:
            emulator.add_fault("PutObject", "api:SlowDown")
            ...  # talk to emulator.url with emulator.secret_id and emulator.secret_key
            emulator.advance(7200)

    Without ``options``, they are read from the environment, and ``BadOption`` is raised if one of
    them is invalid. Entering the context starts the emulator and waits until it is ready; leaving
    the context stops it.
    """

    def __init__(self, options: EmulatorOptions | None = None) -> None:
        super().__init__("")
        self.options = options or EmulatorOptions.read(port=0)
        self.secret_id = self.options.secret_id
        self.secret_key = self.options.secret_key.get_secret_value()

    def start(self) -> None:
        """Start the emulator, and wait until it is ready.

        Raises ``CannotListen`` if the address cannot be used, and ``BadOption`` if the folder for
        the objects cannot be used.
        """
        ready = threading.Event()
        self._listening = _Listening(self.options)
        self._server = _Server(self._listening.emulation, ready.set)
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="faceid-emulator", daemon=True
        )
        self._thread.start()
        ready.wait()
        if not self._server.started:
            self._listening.close()
            raise CannotListen(f"the emulator did not start at {self._listening.url}")
        self.url = self._listening.url

    @property
    def folder(self) -> Path:
        """The folder of the objects. A temporary folder is removed when the emulator stops."""
        return self._listening.emulation.folder

    def stop(self) -> None:
        """Stop the emulator, and wait until it has stopped. This may be called more than once."""
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()

    def _run(self, ready: threading.Event) -> None:
        try:
            self._server.run(sockets=[self._listening.socket])
        finally:
            ready.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()
