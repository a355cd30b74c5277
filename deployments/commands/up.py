"""``faceid up``: runs the local stack with the dashboard."""

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import Parameter
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

from deployments import stack
from deployments.stack import (
    Child,
    EmulatorAddress,
    claim_port,
    orphans_ended,
    prefect_server,
    worker,
)
from faceid import samples
from faceid.errors import InvalidInput, StorageError
from faceid.models import Service
from faceid.outputs import stderr
from tasks.settings import DeliverySettings
from tasks.state.shared_storage import open_for_runs


def up(
    *,
    emulator: Annotated[bool, Parameter(negative=())] = False,
    live: Annotated[bool, Parameter(negative=())] = False,
    port: int = 4200,
    ready_file: Path | None = None,
) -> None:
    """Start the local stack for the dashboard, and run it until Ctrl-C.

    The stack consists of a Prefect server with the deployments, a worker that executes their runs,
    and with --emulator also the emulator. With neither --emulator nor --live, FACEID_ENDPOINT and
    the credentials in the environment determine the service.

    Parameters
    ----------
    emulator
        Start an emulator of the service and use it.
    live
        Use the real service with the credentials in the environment.
    port
        Port of the dashboard; 0 picks a free port.
    ready_file
        File to write once everything is ready, with a JSON object that contains the addresses.
    """
    service = _which_service(own_emulator=emulator, live=live)
    try:
        run_stack(claim_port(port), service, own_emulator=emulator, ready_file=ready_file)
    except KeyboardInterrupt:  # Ctrl-C is the normal way to stop the stack
        stderr.print("stopped")


def _which_service(*, own_emulator: bool, live: bool) -> Service:
    settings = DeliverySettings.load()
    if own_emulator and live:
        raise InvalidInput("Configuration", "--emulator and --live exclude each other")
    if own_emulator:
        return "emulator"
    if live and settings.service != "live":
        raise InvalidInput(
            "Configuration",
            f"--live, but FACEID_ENDPOINT is {settings.host}: omit --live or unset the variable",
        )
    if not live and not os.environ.get("FACEID_ENDPOINT") and not settings.secret_id:
        raise InvalidInput(
            "Configuration",
            "choose a service: --emulator, or --live with TENCENTCLOUD_SECRET_ID and "
            "TENCENTCLOUD_SECRET_KEY set",
        )
    settings.credentials()
    # If the storage is misconfigured, every run would fail. If it is away, it may come back.
    with suppress(StorageError):
        asyncio.run(open_for_runs(settings))
    return settings.service


def _auth_string() -> dict[str, str]:
    """Return the environment variables for basic authentication; empty if it is not configured.

    The value may come from a Prefect profile.
    """
    auth = PREFECT_SERVER_API_AUTH_STRING.value()
    if auth is None:
        return {}
    if not auth:
        raise InvalidInput(
            "Configuration",
            "PREFECT_SERVER_API_AUTH_STRING is empty: give user:password, or unset it",
        )
    return {"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth}


def run_stack(port: int, service: Service, *, own_emulator: bool, ready_file: Path | None) -> None:
    """Run the stack until interrupted.

    The server and the worker are restarted if they end, and requests that were at work continue.
    Raises ``StackError`` if a part of the stack does not start, ends too often, or is the emulator
    and ends: the emulator is not restarted, because its objects and its clock are lost with it.
    """
    environment = {"FACEID_RESOURCE_ROOTS": str(Path.cwd()), **os.environ}
    auth = _auth_string()
    with ExitStack() as running:
        parts: list[Child] = []
        emulated: Child | None = None
        address: EmulatorAddress | None = None
        if own_emulator:
            emulated, address = running.enter_context(stack.emulator(environment, None))
            parts.append(emulated)
            environment |= address.environment()
        environment |= auth
        stderr.print("starting the Prefect server ...")
        server, api_url = running.enter_context(prefect_server(port, environment, None))
        parts.append(server)
        running.enter_context(orphans_ended(parts))
        parts.append(running.enter_context(worker(api_url, environment, os.cpu_count() or 1, None)))
        dashboard = f"http://127.0.0.1:{port}"
        endpoint = address.url if address else DeliverySettings.load().endpoint
        _say_how_to_trigger(dashboard, api_url, service, endpoint, has_auth=bool(auth))
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
        try:
            _keep_alive(parts, emulated)
        except KeyboardInterrupt:
            stderr.print("stopping ...")
            raise


def _keep_alive(parts: Sequence[Child], emulated: Child | None) -> NoReturn:
    while True:
        for part in parts:
            if part is emulated:
                part.check()
            else:
                part.keep_alive()
        time.sleep(0.5)


def _say_how_to_trigger(
    dashboard: str, api_url: str, service: Service, endpoint: str, *, has_auth: bool
) -> None:
    # At the address itself are Prefect's older pages, in which the form of a run does nothing.
    stderr.print(f"dashboard  {dashboard}/v2")
    stderr.print(f"service    {service}, {endpoint}")
    stderr.print("trigger    in the dashboard: Deployments, deliver/default, Run; or in a second")
    stderr.print("           terminal in this folder:")
    stderr.print(trigger_command(api_url, service), markup=False)
    if has_auth:
        stderr.print(
            "auth       the dashboard asks for PREFECT_SERVER_API_AUTH_STRING; commands need"
        )
        stderr.print("           the same in PREFECT_API_AUTH_STRING")
    stderr.print("stop       Ctrl-C")


def trigger_command(api_url: str, service: Service) -> str:
    """Return a command, in several lines, that triggers a run from a shell in this folder.

    With the emulator, it delivers two of the sample files, if runs may read them by default because
    they lie in this folder. Otherwise, it names files that one has to put there.
    """
    image, video = Path("id-photo.jpg"), Path("selfie.mp4")
    sample_folder = _from_here(Path(samples.__file__).parent)
    if service == "emulator" and not sample_folder.is_absolute():
        image, video = sample_folder / "alder.jpg", sample_folder / "alder.mp4"
    prefect = _from_here(Path(sys.executable).with_name("prefect"))
    resources = json.dumps({"ImageUrl": str(image), "VideoUrl": str(video)})
    return " \\\n    ".join(
        (
            f"PREFECT_API_URL={api_url} {shlex.quote(str(prefect))}",
            "deployment run deliver/default --watch -p request_id=up-1",
            "-p target_action=VideoLivenessCompare -p region=ap-singapore",
            f"-p {shlex.quote(f'resources={resources}')}",
            """-p 'action_parameters={"LivenessType": "SILENT"}'""",
        )
    )


def _from_here(path: Path) -> Path:
    """Return a path relative to the working folder, unless it lies elsewhere."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _write_ready_file(path: Path, content: dict[str, str]) -> None:
    # The file is written atomically, and only its owner can read it, because it may contain the
    # emulator's keys.
    draft = path.with_name(path.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content))
    draft.replace(path)
