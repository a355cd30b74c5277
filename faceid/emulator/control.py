"""Control calls under ``/_emulator/``, which inspect and change the emulator's state.

Control calls are not part of the emulated service. Requests and replies are JSON. An invalid
request is answered with HTTP 400 and ``{"error": "..."}``, a line that says what is allowed.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from faceid import __version__
from faceid.emulator.emulation import Emulation
from faceid.emulator.faults import BadRule
from faceid.emulator.journal import FILTERS
from faceid.emulator.options import BadOption, EmulatorOptions

PREFIX = "/_emulator"
"""First segment of the path of every control call."""


class _Wrong(HTTPException):
    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    return _json({"error": refusal.detail}, refusal.status_code)


async def _body(request: Request) -> object:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise _Wrong("the body must be JSON") from None


class Control:
    """Answers the control calls to one emulator."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation

    def app(self) -> Starlette:
        """Return the ASGI application with a route for each control call."""
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "health": {"GET": self._health},
            "stats": {"GET": self._stats},
            "requests": {"GET": self._requests},
            "clock": {"GET": self._clock, "POST": self._move_clock},
            "faults": {
                "GET": self._faults,
                "POST": self._add_faults,
                "DELETE": self._clear_faults,
            },
            "credentials": {"POST": self._rotate},
            "reset": {"POST": self._reset},
        }
        return Starlette(
            routes=[
                Route(f"{PREFIX}/{name}", _by_method(methods), methods=list(methods))
                for name, methods in routes.items()
            ],
            exception_handlers={HTTPException: _refuse},
        )

    async def _health(self, _: Request) -> Response:
        now = self._emulation.clock.now()
        return _json({"status": "ok", "version": __version__, "clock": now})

    async def _stats(self, _: Request) -> Response:
        return _json(self._emulation.journal.stats())

    async def _requests(self, request: Request) -> Response:
        wanted = dict(request.query_params)
        for name in wanted:
            if name not in FILTERS:
                raise _Wrong(f"{name!r} is not a filter; the filters are {', '.join(FILTERS)}")
        return _json(self._emulation.journal.entries(wanted))

    async def _clock(self, _: Request) -> Response:
        return _json({"clock": self._emulation.clock.now()})

    async def _move_clock(self, request: Request) -> Response:
        body = await _body(request)
        given = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        seconds = given.get("advance")
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not math.isfinite(seconds)
            or len(given) > 1
        ):
            raise _Wrong('the body must be {"advance": seconds}')
        try:
            clock = self._emulation.clock.advance(seconds)
        except ValueError as error:
            raise _Wrong(str(error)) from None
        self._emulation.objects.drop_expired()
        return _json({"clock": clock})

    async def _faults(self, _: Request) -> Response:
        return _json([rule.as_json() for rule in self._emulation.faults.rules])

    async def _add_faults(self, request: Request) -> Response:
        try:
            self._emulation.faults.add(await _body(request))
        except BadRule as error:
            raise _Wrong(str(error)) from None
        return await self._faults(request)

    async def _clear_faults(self, request: Request) -> Response:
        self._emulation.faults.clear()
        return await self._faults(request)

    async def _rotate(self, request: Request) -> Response:
        body = await _body(request)
        given = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        if not {"secret_id", "secret_key"} <= set(given) <= {"secret_id", "secret_key", "token"}:
            raise _Wrong('the body must be {"secret_id", "secret_key"}, and may have "token"')
        try:
            options = EmulatorOptions.read(**{"token": ""} | given)
        except BadOption as error:
            raise _Wrong(str(error)) from None
        self._emulation.accept_key_of(options)
        return _json({"status": "ok"})

    async def _reset(self, _: Request) -> Response:
        self._emulation.reset()
        return _json({"status": "ok"})


def _by_method(methods: dict[str, Callable[[Request], Any]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        # Starlette also routes HEAD to endpoints that have GET.
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return endpoint
