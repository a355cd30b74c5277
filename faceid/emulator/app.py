"""The emulator's ASGI application: the API, the object store and the control calls.

All three have the same address; the path decides which of them gets a request.
"""

from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

from faceid.emulator.control import PREFIX, Control
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import ClientGone, Exchange
from faceid.emulator.gateway import Gateway
from faceid.emulator.store import Store

_CONTROL = PREFIX.encode() + b"/"


def create_app(emulation: Emulation) -> Callable[..., Any]:
    """Return the ASGI application of an emulator.

    Faults that cut connections need a server with ``server.EmulatorProtocol``. The application has
    no router, because the store needs the undecoded path and the API has to be fast.
    """
    gateway, store, control = Gateway(emulation), Store(emulation), Control(emulation).app()
    clock = emulation.clock

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw_path: bytes = scope["raw_path"]
        if raw_path.startswith(_CONTROL):

            async def send_dated(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", []), (b"date", clock.date())]
                await send(message)

            await control(scope, receive, send_dated)
            return
        exchange = Exchange(scope, receive, send, date=clock.date, ending=emulation.ending)
        if raw_path != b"/":
            await store.handle(exchange)
            return
        with suppress(ClientGone):  # nobody is left to answer, and no action was called
            await gateway.handle(exchange)

    return app
