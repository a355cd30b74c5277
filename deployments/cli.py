"""The commands that run flows: ``demo``, ``up``, ``deliver``.

Prefect is imported inside the commands: it takes seconds, and it reads its home and its API's URL
from the environment when it is imported.
"""

import asyncio
import json
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from deployments.stack import (
    Child,
    EmulatorAddress,
    claim_port,
    emulator,
    prefect_server,
    temporary_prefect_server,
    worker,
)
from faceid.command import Exit, app, stderr
from faceid.errors import DeliveryFailed, InvalidInput
from faceid.intake import check_request, read_request
from faceid.models import DeliveryResult, Service
from faceid.settings import FaceIdSettings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


@app.command
def deliver(
    *,
    request_id: str,
    action: str,
    region: str = "",
    resource: Annotated[list[str], Parameter(negative=())],
    param: Annotated[list[str] | None, Parameter(negative=())] = None,
    credentials: str = "",
    max_windows: int = 12,
    on_unknown_outcome: Literal["call_again", "stop"] = "call_again",
    require_passed: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Deliver one request and print its result object, one line of JSON.

    Parameters
    ----------
    request_id
        Your own key for this request: a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -
    action
        The target action, such as VideoLivenessCompare.
    region
        Where the files are uploaded and the action is called; TENCENTCLOUD_REGION if not given.
    resource
        Field=PATH, once for each file, such as ImageUrl=photo.jpg. Any fsspec location.
    param
        Name=VALUE, once for each parameter of the action, such as LivenessType=SILENT.
    credentials
        Name of a Prefect block tencent-credentials; without it the environment's keys.
    max_windows
        How many times at most the files are uploaded afresh when two hours ran out.
    on_unknown_outcome
        What to do when the action was called and no answer came. Calling again may be billed.
    require_passed
        Exit with 3 when the verdict is negative.
    """
    settings = FaceIdSettings.load()
    arguments: dict[str, Any] = {
        "request_id": request_id,
        "target_action": action,
        "region": region or settings.region,
        "resources": _pairs("--resource", resource),
        "action_parameters": _pairs("--param", param or []),
    }
    # All of it is checked again by the flow; here a mistake costs no server start.
    checked = check_request(read_request(**arguments), settings)
    if not credentials:
        settings.credentials()
    if max_windows < 1:
        raise InvalidInput("InvalidRequest", "--max-windows must be 1 or more")
    stderr.print(
        f"{request_id}: {len(checked.files)} files to {action}, {settings.service} service"
    )
    result = _run_flow(
        {
            **arguments,
            "credentials": credentials,
            "max_windows": max_windows,
            "on_unknown_outcome": on_unknown_outcome,
        }
    )
    print(result.model_dump_json())  # noqa: T201 - results go to stdout
    if result.error is not None:
        stderr.print(f"faceid: {result.error.message}", markup=False)
    raise Exit(exit_code(result, require_passed=require_passed))


def _pairs(flag: str, given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InvalidInput("InvalidRequest", f"{flag} wants NAME=VALUE")
        if name in pairs:
            raise InvalidInput("InvalidRequest", f"{flag} {name} is given twice")
        pairs[name] = value
    return pairs


def exit_code(result: DeliveryResult, *, require_passed: bool) -> int:
    if result.error is not None:
        mistake = result.error.kind in ("input", "conflict", "account")
        return 2 if mistake and result.windows == 0 else 1
    if result.status == "waiting":
        return 1
    assert result.verdict is not None
    return 3 if require_passed and result.verdict.passed is False else 0


def _run_flow(arguments: dict[str, Any]) -> DeliveryResult:
    """Runs the flow in this process, recorded at PREFECT_API_URL or in a temporary server."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deliver import deliver as flow

    async def run() -> DeliveryResult:
        # Prefect types an async flow that returns a state as a state.
        state: State[Any] = await cast("Any", flow)(**arguments, return_state=True)
        outcome: Any = await state.aresult(raise_on_failure=False)
        if isinstance(outcome, DeliveryFailed):
            return outcome.result
        if isinstance(outcome, DeliveryResult):
            return outcome
        raise outcome if isinstance(outcome, Exception) else RuntimeError(state.message)

    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            stderr.print("PREFECT_API_URL is not set: recording in a temporary Prefect server")
            api_url = stack.enter_context(temporary_prefect_server(os.environ))
            stack.enter_context(temporary_settings({PREFECT_API_URL: api_url}))
        return asyncio.run(run())


@app.command
def demo(*, items: int = 4, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Show it all: emulator, Prefect server, deployment, and a few requests to their verdicts.

    Starts everything it needs on free ports, with a home of its own, triggers each request
    through the Prefect API as a user would, prints a table, and stops all of it.

    Parameters
    ----------
    items
        How many requests to deliver.
    json
        Print one JSON list of result objects instead of the table.
    """
    if items < 1:
        raise InvalidInput("InvalidRequest", "--items must be 1 or more")
    from deployments.demo import run_demo

    raise Exit(run_demo(items, as_json=json))


@app.command
def up(
    *,
    emulator: Annotated[bool, Parameter(negative=())] = False,
    live: Annotated[bool, Parameter(negative=())] = False,
    port: int = 4200,
    ready_file: Path | None = None,
) -> None:
    """Start the local stack for the dashboard, and stay until Ctrl-C.

    A Prefect server, the deployments and what runs them; with --emulator also the emulator. With
    neither --emulator nor --live it follows FACEID_ENDPOINT and the credentials.

    Parameters
    ----------
    emulator
        Start an emulator of the service, and use it.
    live
        Use the real service, with the credentials of the environment.
    port
        The dashboard's port; 0 picks a free one.
    ready_file
        Is written when all is ready: one JSON object with the addresses.
    """
    service = _which_service(own_emulator=emulator, live=live)
    with suppress(KeyboardInterrupt):  # the way it is meant to end
        run_stack(claim_port(port), service, own_emulator=emulator, ready_file=ready_file)


def _which_service(*, own_emulator: bool, live: bool) -> Service:
    settings = FaceIdSettings.load()
    if own_emulator and live:
        raise InvalidInput("Configuration", "--emulator and --live exclude each other")
    if own_emulator:
        return "emulator"
    if live and settings.service != "live":
        raise InvalidInput(
            "Configuration", f"--live, but FACEID_ENDPOINT is {settings.host}: unset one of them"
        )
    if not live and not os.environ.get("FACEID_ENDPOINT") and not settings.secret_id:
        raise InvalidInput(
            "Configuration",
            "which service? Say --emulator, or --live with TENCENTCLOUD_SECRET_ID and "
            "TENCENTCLOUD_SECRET_KEY set",
        )
    settings.credentials()
    return settings.service


def run_stack(port: int, service: Service, *, own_emulator: bool, ready_file: Path | None) -> None:
    """The body of ``up``. Returns when interrupted; raises ``StackError`` when a part dies."""
    environment = {"FACEID_RESOURCE_ROOTS": str(Path.cwd()), **os.environ}
    with ExitStack() as stack:
        parts: list[Child] = []
        address: EmulatorAddress | None = None
        if own_emulator:
            part, address = stack.enter_context(_emulator(environment, None))
            parts.append(part)
            environment |= address.environment()
        stderr.print("starting the Prefect server ...")
        part, api_url = stack.enter_context(prefect_server(port, environment, None))
        parts.append(part)
        parts.append(stack.enter_context(worker(api_url, environment, os.cpu_count() or 1, None)))
        dashboard = f"http://127.0.0.1:{port}"
        endpoint = address.url if address else FaceIdSettings.load().endpoint
        _say_how_to_trigger(dashboard, api_url, service, endpoint)
        if ready_file:
            _write_ready_file(
                ready_file,
                {
                    "api_url": api_url,
                    "dashboard": dashboard,
                    "service": service,
                    "endpoint": endpoint,
                    **(
                        {"secret_id": address.secret_id, "secret_key": address.secret_key}
                        if address
                        else {}
                    ),
                },
            )
        while True:
            for part in parts:
                part.check()
            time.sleep(0.5)


_emulator = emulator


def _say_how_to_trigger(dashboard: str, api_url: str, service: Service, endpoint: str) -> None:
    stderr.print(f"dashboard  {dashboard}")
    stderr.print(f"service    {service}, {endpoint}")
    stderr.print("trigger    in the dashboard: Deployments, deliver/default, Run; or")
    stderr.print(
        f"           PREFECT_API_URL={api_url} prefect deployment run deliver/default "
        "-p request_id=r-1 ..."
    )
    stderr.print("stop       Ctrl-C")


def _write_ready_file(path: Path, content: dict[str, str]) -> None:
    # Written whole or not at all, and for us alone: it may hold the emulator's keys.
    draft = path.with_name(path.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content))
    draft.replace(path)
