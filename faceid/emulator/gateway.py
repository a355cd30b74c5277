"""The API at ``/``: authenticates and checks calls, carries them out, and wraps their answers.

The checks are made in this order (assumed): Authorization header, secret ID, timestamp, signature,
token, version and action, region, parameters, rate. Every answer has HTTP status 200 (documented)
and the content type ``application/json`` without parameters (documented; with parameters, the
vendor's SDK would not recognize errors).
"""

import re
import time
import uuid
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson

from faceid.actions import API_VERSION, CREATE_UPLOAD_URL, UPLOAD_REGIONS
from faceid.emulator.authentication import authenticate, required
from faceid.emulator.call import Call, create_upload_url, ticket_key
from faceid.emulator.downloads import Location
from faceid.emulator.emulation import Emulation
from faceid.emulator.exchange import Exchange, Reply, trouble
from faceid.emulator.faults import NO_FAULT, Fault, Traits
from faceid.emulator.journal import Entry
from faceid.emulator.parameters import ParameterCheck, check_create_upload_url
from faceid.emulator.refusals import API_MESSAGES, Refusal, limit_message
from faceid.emulator.target_actions import OFFLINE, call_target_action

MAX_BODY = 10 * 1024 * 1024
"""Maximum size in bytes of a POST's body (documented)."""
MAX_QUERY = 32 * 1024
"""Maximum size in bytes of a GET's query (documented)."""

# The actions that need no region: documented for the first two, assumed for CheckIdCardInformation.
_REGION_OPTIONAL = frozenset({"LivenessCompare", "IdCardOCRVerification", "CheckIdCardInformation"})
_PLAIN_NAME = re.compile("[A-Za-z]{1,64}")
_HEADERS = [(b"content-type", b"application/json")]
_TRUTH = {"true": True, "false": False}


class Gateway:
    """Answers the API calls to one emulator."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
        self._parameters = {
            name: ParameterCheck(action) for name, action in emulation.actions.items()
        }

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request to the API.

        Raises ``ClientGone`` if the client closes the connection before the body is complete.
        """
        emulation = self._emulation
        request_id = str(uuid.uuid4())
        entry = Entry(
            at=emulation.clock.now(),
            op=_name_for_log(exchange.headers.get("x-tc-action", "")),
            tencent_request_id=request_id,
        )
        emulation.journal.begin(entry)
        fault = NO_FAULT
        try:
            body = await exchange.body(MAX_BODY)
            entry.bytes = len(body or b"")
            call = self._admit(exchange, body, request_id)
            entry.target_action = call.parameters.get("TargetAction", call.name)
            fault = self._reach(call)
            if call.name == CREATE_UPLOAD_URL:
                entry.key = ticket_key(emulation, call)
            match fault.kind:
                case "reset":
                    await exchange.reset()
                    return
                case "delay":
                    await exchange.delay(fault.amount)
                case "api":
                    raise Refusal(fault.code)
                case _:
                    pass
            if fault.kind == "http":
                reply = trouble(int(fault.amount))
            else:
                reply = _envelope(await self._perform(call, fault), request_id)
        except Refusal as refusal:
            emulation.journal.refuse(entry, refusal.code)
            reply = _envelope(refusal.as_json(), request_id)
        if fault.kind == "truncate":
            # The HTTP reply is complete, but its JSON is truncated. `reset-after` cuts off the HTTP
            # body.
            reply, fault = Reply(200, _HEADERS, reply.body[: reply.length // 2]), NO_FAULT
        entry.status = None if fault.drops_answer else reply.status
        await exchange.answer(reply, fault)

    def _admit(self, exchange: Exchange, body: bytes | None, request_id: str) -> Call:
        """Check a request, and return its call. Raises ``Refusal`` if a check fails."""
        headers = exchange.headers
        if exchange.method not in ("GET", "POST"):
            raise Refusal("UnsupportedProtocol")  # documented
        if body is None or len(exchange.query) > MAX_QUERY:
            raise Refusal("RequestSizeLimitExceeded")
        authenticate(self._emulation, exchange, body)
        name = required(headers, "x-tc-action")
        if required(headers, "x-tc-version") != API_VERSION:
            raise Refusal("NoSuchVersion")
        if name in OFFLINE:
            raise Refusal("ActionOffline")
        if name != CREATE_UPLOAD_URL and name not in self._parameters:
            raise Refusal("InvalidAction")
        region = self._region(name, headers.get("x-tc-region", ""))
        given = _parameters(exchange, body)
        if name == CREATE_UPLOAD_URL:
            check_create_upload_url(given, self._emulation.actions)
        else:
            self._parameters[name].check(given)
        return Call(name, request_id, headers.get("host", ""), region, given)

    def _region(self, name: str, region: str) -> str:
        if not region:
            if name in _REGION_OPTIONAL:
                return ""
            raise Refusal("MissingParameter", "The request is missing the header X-TC-Region.")
        regions = (
            UPLOAD_REGIONS if name == CREATE_UPLOAD_URL else self._emulation.actions[name].regions
        )
        if region not in regions:
            raise Refusal("UnsupportedRegion")
        return region

    def _reach(self, call: Call) -> Fault:
        """Count a valid call, and return its fault. Raises ``Refusal`` if it is throttled."""
        emulation, moment = self._emulation, time.monotonic()
        if over := emulation.rates.take(call.name, moment):
            emulation.journal.count_throttled(call.name)
            raise Refusal("RequestLimitExceeded", limit_message(*over))
        fault = emulation.faults.next_for(call.name, lambda: self._traits(call))
        if fault.kind == "api" and fault.code.startswith("RequestLimitExceeded"):
            emulation.journal.count_throttled(call.name)
            raise Refusal(fault.code, API_MESSAGES.get(fault.code, limit_message(21, 20)))
        emulation.journal.count_call(call.name, moment)
        return fault

    def _traits(self, call: Call) -> Traits:
        if call.name == CREATE_UPLOAD_URL:
            key = ticket_key(self._emulation, call)
            return Traits(call.parameters["TargetAction"], keys=(key,))
        action = self._emulation.actions[call.name]
        md5s = (call.parameters.get(name, "").lower() for name in action.md5_fields)
        return Traits(call.name, keys=self._keys(call), md5s=tuple(md5s))

    def _keys(self, call: Call) -> tuple[str, ...]:
        """Return the keys of the objects in the store that a call's URLs point to."""
        action = self._emulation.actions[call.name]
        urls = [call.parameters.get(field.name, "") for field in action.resources]
        locations = [Location.parse(url, self._emulation) for url in urls]
        return tuple(location.key for location in locations if location)

    async def _perform(self, call: Call, fault: Fault) -> dict[str, Any]:
        emulation, kind = self._emulation, fault.kind
        if call.name == CREATE_UPLOAD_URL:
            return create_upload_url(emulation, call, ended=kind == "expire-now")
        if kind == "expire-now":
            for key in self._keys(call):
                emulation.objects.end_now(key)
        result = fault.code if kind == "result" else None
        return await call_target_action(emulation, emulation.actions[call.name], call, result)


def _envelope(fields: dict[str, Any], request_id: str) -> Reply:
    return Reply(200, _HEADERS, orjson.dumps({"Response": {**fields, "RequestId": request_id}}))


def _name_for_log(action: str) -> str:
    return action if _PLAIN_NAME.fullmatch(action) else "unknown"


def _parameters(exchange: Exchange, body: bytes) -> dict[str, Any]:
    """Return the parameters of a call, without those that are null.

    Raises ``Refusal`` if the body is not a JSON object.
    """
    if exchange.method == "GET":
        return _from_query(exchange.query)
    content_type = exchange.headers.get("content-type", "").partition(";")[0].strip()
    if content_type != "application/json":
        raise Refusal("InvalidRequest")  # assumed
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise Refusal("InvalidParameter", "The body must be a JSON object.")  # assumed
    fields = cast("dict[str, Any]", given)
    return {name: value for name, value in fields.items() if value is not None}


def _from_query(query: str) -> dict[str, Any]:
    """Return the parameters in the query of a GET.

    ``A.B=`` sets the member ``B`` of the parameter ``A`` (documented). Values are texts, except
    ``true`` and ``false``.
    """
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parent, dot, member = name.partition(".")
        if dot:
            given[parent] = {**_members(given.get(parent)), member: value}
        else:
            given[name] = _TRUTH.get(value.lower(), value)
    return given


def _members(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
