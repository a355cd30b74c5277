"""``faceid deliver``: delivers one request in this process."""

import asyncio
from contextlib import suppress
from threading import Event
from typing import Annotated, Any, cast

from cyclopts import Parameter
from prefect.client.schemas.objects import State

from deployments.commands.delivery_flags import DEFAULT_FLAGS, DeliveryFlags
from deployments.commands.local_run import local_run
from faceid.command import Exit
from faceid.errors import InvalidInput, StorageError
from faceid.files.sources import Patience
from faceid.models import DeliveryFailed, DeliveryResult
from faceid.outputs import BrokenOutput, print_result, stderr
from faceid.validation import ValidatedRequest, check_files, read_request, validate_request
from flows.deliver import deliver as flow
from tasks.settings import DeliverySettings
from tasks.state.claims import has_verdict
from tasks.state.record_store import RecordStore
from tasks.state.shared_storage import open_for_runs


def deliver(
    *,
    request_id: str,
    action: str,
    region: str = "",
    resource: Annotated[list[str], Parameter(negative=())],
    param: Annotated[list[str] | None, Parameter(negative=())] = None,
    flags: DeliveryFlags = DEFAULT_FLAGS,
    require_passed: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Deliver one request and print its result object as one line of JSON.

    Parameters
    ----------
    request_id
        Your own ID for this request: a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -
    action
        The target action, such as VideoLivenessCompare.
    region
        Region in which the files are uploaded and the action is called. If omitted, the region of
        the block or TENCENTCLOUD_REGION is used.
    resource
        FIELD=PATH, once for each file, such as ImageUrl=photo.jpg. PATH may be any fsspec URL.
    param
        NAME=VALUE, once for each parameter of the action, such as LivenessType=SILENT.
    require_passed
        Exit with code 3 if the verdict is negative.
    """
    settings = flags.load_settings()
    arguments: dict[str, Any] = {
        "request_id": request_id,
        "target_action": action,
        "region": region or settings.region,
        "resources": _pairs("--resource", resource),
        "action_parameters": _pairs("--param", param or []),
    }
    # The flow checks all of this again. It is checked here, too, so that mistakes are reported
    # before a Prefect server is started.
    validated = validate_request(read_request(**arguments), settings)
    settings.credentials()
    asyncio.run(_check(validated, settings))
    if flags.save_files_to:
        settings.roots().resolve_folder("save_files_to", flags.save_files_to)
    stderr.print(
        f"{request_id}: {len(validated.locations)} files to {action}, {settings.service} service"
    )
    stopped = Event()
    result = local_run(lambda: _run_flow(arguments | flags.arguments()), on_stop=stopped.set)
    if result is not None:
        _print(result)
    if result is None or stopped.is_set():
        raise Exit(130)
    raise Exit(exit_code(result, require_passed=require_passed))


def _print(result: DeliveryResult) -> None:
    try:
        print_result(result.model_dump_json())
    except BrokenOutput as broken:  # the result is stored, and faceid status prints it
        if broken.reason:
            stderr.print(f"faceid: {broken.reason}", markup=False)
    if result.error is not None:
        stderr.print(f"faceid: {result.error.message}", markup=False)
    elif result.status == "waiting":
        stderr.print(f"faceid: {result.request_id} is waiting: the same command continues it")


async def _check(validated: ValidatedRequest, settings: DeliverySettings) -> None:
    """Check the storage, and the files unless the request has its verdict.

    The files of a request with a verdict may have been deleted since. Raises ``InvalidInput`` if
    the storage is misconfigured, or if a file cannot be read or is not accepted, and
    ``RequestIdConflict`` if the verdict is that of a different input.
    """
    with suppress(StorageError):  # the run will report the error, and be recorded as failed
        storage = await open_for_runs(settings)
        store = RecordStore(storage, settings.service, settings.account)
        if await has_verdict(validated, store):
            return
    await check_files(validated, Patience(settings.source_seconds))


def _pairs(flag: str, given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InvalidInput("InvalidRequest", f"{flag} must be NAME=VALUE")
        if name in pairs:
            raise InvalidInput("InvalidRequest", f"{flag} {name} is given twice")
        pairs[name] = value
    return pairs


def exit_code(result: DeliveryResult, *, require_passed: bool) -> int:
    """Return the exit code for a result.

    The exit code is 0 for a verdict, 1 if the request failed, 2 for a mistake that was found before
    anything was sent, 3 for a negative verdict with ``require_passed``, and 4 if the request waits.
    """
    if result.error is not None:
        mistake = result.error.kind in ("input", "conflict", "account")
        return 2 if mistake and result.windows == 0 else 1
    if result.status == "waiting":
        return 4
    assert result.verdict is not None
    return 3 if require_passed and result.verdict.passed is False else 0


async def _run_flow(arguments: dict[str, Any]) -> DeliveryResult | None:
    """Run the flow, and return its result; ``None`` if it was told to end before it had one."""
    # Prefect's types declare that this call returns a state, although it returns an awaitable.
    state: State[Any] = await cast("Any", flow)(**arguments, return_state=True)
    if state.is_cancelled():
        stderr.print(f"faceid: {state.message}", markup=False)
        return None
    outcome: Any = await state.aresult(raise_on_failure=False)
    if isinstance(outcome, DeliveryFailed):
        return outcome.result
    if isinstance(outcome, DeliveryResult):
        if outcome.status == "waiting":
            stderr.print(f"faceid: {state.message}", markup=False)
        return outcome
    raise outcome if isinstance(outcome, Exception) else RuntimeError(state.message)
