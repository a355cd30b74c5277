"""The load of a chaos run: runs triggered through the API, and commands, and how they are pursued.

The runs and commands for single requests begin one after the other, while the batches are at work,
so that every fault meets some of them. Each piece of work is pursued as its user would: a command
that ended without all verdicts is run again, a deployed run that failed is triggered again, and
what died is left to the sweep.
"""

import asyncio
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal

import httpx

from faceid.errors import StorageError
from faceid.samples import copy_samples
from tasks.delivery import OnUnknownOutcome
from tasks.settings import DeliverySettings
from tasks.state.record_store import RecordStore
from tasks.state.records import Record
from tasks.state.storage import open_storage
from tests.chaos.recorder import ACTION
from tests.chaos.servers import Servers

Way = Literal["run", "command", "batch twice", "batch | head -1", "batch > full", "batch run"]
"""How requests are delivered. ``batch twice`` is a deployed run and a command at once."""

CONCURRENCY = 16
"""Requests of a batch at the same time."""
COMMANDS_AT_ONCE = 3
"""Commands that run at the same time."""
POLL_SECONDS = 1.0
SINGLE_RUNS, SINGLE_COMMANDS, BROKEN = 12, 25, 40
"""One request in so many is a run or a command of its own, or has no file."""
SPREAD = 0.6
"""Share of the answers after which the last run and the last command begin."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
POLICIES: tuple[OnUnknownOutcome, ...] = ("call_again", "stop")


@dataclass
class Work:
    """Requests that are delivered together."""

    name: str
    way: Way
    request_ids: list[str]
    policy: OnUnknownOutcome
    after: int = 0
    """The number of answers after which it begins."""


class Load:
    """All work of a chaos run, and how far it is."""

    def __init__(self, servers: Servers, requests: int) -> None:
        self.servers = servers
        self.request_of: dict[str, str] = {}
        """Maps the ``ImageMd5`` of a call to the request ID."""
        self.policy_of: dict[str, OnUnknownOutcome] = {}
        self.broken: set[str] = set()
        """Requests without a file, which fail before anything is sent."""
        self.cancelled: set[str] = set()
        """Requests whose run somebody has cancelled."""
        self.final: set[str] = set()
        """Requests that have come to their end."""
        self.triggered: list[str] = []
        """IDs of all runs that were triggered."""
        self.tracebacks: list[str] = []
        """Names of the commands that printed a traceback, each with the line after it."""
        self.attempts = 0
        """How often a command was run or a run was triggered."""
        self.is_over = threading.Event()
        settings = DeliverySettings.load()
        self.store = RecordStore(open_storage(settings), settings.service, settings.account)
        self._results = servers.folder / "results"
        self._results.mkdir()
        copy_samples(servers.folder)
        self._slots = threading.Semaphore(COMMANDS_AT_ONCE)
        self.work = self._plan(requests)
        self._threads = [
            threading.Thread(target=target, args=(work,), name=work.name, daemon=True)
            for work in self.work
            for target in self._targets(work)
        ]

    def begin(self) -> None:
        """Begin all work."""
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        """Whether all work has come to its end."""
        return not any(thread.is_alive() for thread in self._threads)

    def record(self, request_id: str) -> Record | None:
        """Return the record of a request. Raises ``StorageError`` if it cannot be read."""
        return asyncio.run(self.store.load(request_id))

    def result_lines(self) -> list[dict[str, Any]]:
        """Return all result lines that commands have printed or written."""
        lines = itertools.chain.from_iterable(
            path.read_text().splitlines() for path in self._results.iterdir() if path.is_file()
        )
        found: list[dict[str, Any]] = []
        for line in lines:
            with suppress(ValueError):  # a line that was cut off
                found.append(json.loads(line))
        return found

    def _plan(self, requests: int) -> list[Work]:
        names = iter(f"c-{number:04}" for number in range(requests))
        counts: dict[Way, int] = {
            "run": max(4, requests // SINGLE_RUNS),
            "command": max(3, requests // SINGLE_COMMANDS),
        }
        work = [
            Work(
                f"{way}-{number}",
                way,
                [next(names)],
                POLICIES[number % 2],
                after=round(SPREAD * requests * number / count),
            )
            for way, count in counts.items()
            for number in range(count)
        ]
        rest = list(names)
        ways: list[Way] = ["batch twice", "batch | head -1", "batch > full", "batch run"]
        for number, way in enumerate(ways):
            share = rest[number :: len(ways)]
            work.append(Work(f"batch-{number}", way, share, POLICIES[number % 2]))
        for piece in work:
            self._write(piece)
        return work

    def _write(self, work: Work) -> None:
        """Write the files of the requests, each with an image of its own, and the manifest."""
        folder = self.servers.folder
        image = (folder / "alder.jpg").read_bytes()
        for request_id in work.request_ids:
            content = image + request_id.encode()
            self.request_of[hashlib.md5(content).hexdigest()] = request_id
            self.policy_of[request_id] = work.policy
            if int(request_id[2:]) % BROKEN == BROKEN - 1:
                self.broken.add(request_id)
            else:
                (folder / f"{request_id}.jpg").write_bytes(content)
        lines = [json.dumps(_request(request_id)) + "\n" for request_id in work.request_ids]
        (folder / f"{work.name}.jsonl").write_text("".join(lines))

    def _targets(self, work: Work) -> list[Any]:
        match work.way:
            case "run":
                return [self._pursue_run]
            case "batch run":
                return [self._pursue_batch_run]
            case "batch twice":
                return [self._pursue_batch_run, self._pursue_command]
            case _:
                return [self._pursue_command]

    def _all_final(self, work: Work) -> bool:
        for request_id in work.request_ids:
            if request_id in self.final or request_id in self.broken | self.cancelled:
                continue
            try:
                record = self.record(request_id)
            except StorageError:
                return False
            if record is None or not self._is_final(record):
                return False
            self.final.add(request_id)
        return True

    def _is_final(self, record: Record) -> bool:
        may_stop = self.policy_of[record.request_id] == "stop"
        return record.outcome == "verdict" or (may_stop and record.outcome == "outcome-unknown")

    def _wait_for_its_time(self, work: Work) -> None:
        while self.servers.recorder.steps["answer"] < work.after:
            if self.is_over.wait(POLL_SECONDS):
                return

    # Commands.

    def _pursue_command(self, work: Work) -> None:
        attempt = 0
        self._wait_for_its_time(work)
        while not self.is_over.is_set():
            with self._slots:
                code = self._command(work, attempt)
            attempt += 1
            if self._all_final(work) and (code in (0, 1, 2) or work.way != "command"):
                return
            self.is_over.wait(POLL_SECONDS)

    def _command(self, work: Work, attempt: int) -> int:
        self.attempts += 1
        command = [sys.executable, "-m", "faceid"]
        out = self._results / f"{work.name}-{attempt}.jsonl"
        if work.way == "command":
            given = _request(work.request_ids[0])
            command += ["deliver", "--request-id", given["request_id"], "--action", ACTION]
            command += ["--region", given["region"], "--param", "LivenessType=SILENT"]
            for field, path in given["resources"].items():
                command += ["--resource", f"{field}={path}"]
        else:
            command += ["batch", f"{work.name}.jsonl", "--concurrency", str(CONCURRENCY)]
        if work.way == "batch > full" and attempt == 0:
            (self.servers.folder / "full.jsonl").symlink_to("/dev/full")
            command += ["--results", "full.jsonl"]
        command += ["--on-unknown-outcome", work.policy]
        log = self.servers.logs / f"{work.name}.log"
        pipe: IO[str] | None = None
        with log.open("a") as errors, out.open("w") as lines:
            before = errors.tell()
            stdout: Any = lines
            if work.way == "batch | head -1" and attempt == 0:
                reader, stdout = os.pipe()
                pipe = os.fdopen(reader)
            process = subprocess.Popen(
                command,
                cwd=self.servers.folder,
                env=self.servers.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=errors,
                start_new_session=True,
            )
            if pipe is not None:
                os.close(stdout)
                with pipe:
                    pipe.readline()
            code = process.wait()
        _, *traced = log.read_text()[before:].split("Traceback (most recent call last):")
        for text in traced:
            last = next((line for line in text.splitlines()[1:] if not line.startswith(" ")), "")
            self.tracebacks.append(f"{work.name} ({last[:200]})")
        return code

    # Deployed runs.

    def _pursue_run(self, work: Work) -> None:
        (request_id,) = work.request_ids
        parameters: dict[str, Any] = {
            **_request(request_id),
            "on_unknown_outcome": work.policy,
        }
        resources = parameters["resources"]
        folder = self.servers.folder
        parameters["resources"] = {field: str(folder / name) for field, name in resources.items()}
        self._wait_for_its_time(work)
        while not self.is_over.is_set():
            run_id = self._trigger("deliver/default", parameters)
            while not self.is_over.wait(POLL_SECONDS) and not self._all_final(work):
                run = self._run(run_id)
                state = (run or {}).get("state_type")
                if state == "CANCELLED":
                    self.cancelled.add(request_id)
                elif state == "FAILED" and self._is_left_alone(request_id):
                    break  # it failed for the time being
            if self._all_final(work):
                return

    def _is_left_alone(self, request_id: str) -> bool:
        """Return whether no run will continue a request by itself."""
        try:
            record = self.record(request_id)
        except StorageError:
            return False
        return record is None or not record.is_open

    def _pursue_batch_run(self, work: Work) -> None:
        parameters = {
            "manifest": str(self.servers.folder / f"{work.name}.jsonl"),
            "concurrency": CONCURRENCY,
            "on_unknown_outcome": work.policy,
        }
        while not self.is_over.is_set():
            run_id = self._trigger("deliver-batch/default", parameters)
            while not self.is_over.wait(POLL_SECONDS):
                run = self._run(run_id) or {}
                following = [tag[5:] for tag in run.get("tags", []) if tag.startswith("next:")]
                if following:
                    run_id = following[0]
                elif run.get("state_type") in ENDED:
                    break
            if self._all_final(work):
                return

    def _trigger(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Trigger a run, and return its ID. Tries until the server is back."""
        self.attempts += 1
        key = f"{threading.current_thread().name}-{self.attempts}-{time.time()}"
        while True:
            with suppress(httpx.HTTPError), self.api() as api:
                found = api.get(f"/deployments/name/{deployment}").raise_for_status().json()
                given = {"parameters": parameters, "idempotency_key": key}
                url = f"/deployments/{found['id']}/create_flow_run"
                created = api.post(url, json=given).raise_for_status().json()
                self.triggered.append(created["id"])
                return created["id"]
            time.sleep(POLL_SECONDS)
            if self.is_over.is_set():
                raise TimeoutError(f"{deployment} could not be triggered")

    def _run(self, run_id: str) -> dict[str, Any] | None:
        with suppress(httpx.HTTPError), self.api() as api:
            return api.get(f"/flow_runs/{run_id}").raise_for_status().json()
        return None

    def api(self) -> httpx.Client:
        """Return a client of Prefect's API."""
        return httpx.Client(base_url=self.servers.api_url, timeout=30, trust_env=False)


def _request(request_id: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "target_action": ACTION,
        "region": "ap-singapore",
        "resources": {"ImageUrl": f"{request_id}.jpg", "VideoUrl": "alder.mp4"},
        "action_parameters": {"LivenessType": "SILENT"},
    }
