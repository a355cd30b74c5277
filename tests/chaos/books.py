"""The books of a chaos run: what the records say against what the service saw.

An entry of the books is a count. Some must be 0, whatever has happened; for others the faults that
may explain them are looked up, and what is left over must be 0.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tasks.settings import DeliverySettings
from tasks.state.records import Record
from tasks.state.spill import open_spill
from tests.chaos.faults import Faults
from tests.chaos.load import CONCURRENCY, Load
from tests.chaos.recorder import Call
from tests.chaos.servers import Servers

IN_HAND_SECONDS = 5.0
"""How long a process may have an answer in hand before it is stored on a busy machine, unless
something holds it up."""
STORAGE_FAULTS = ("storage-away", "disk-full", "redis-flush", "redis-restart")
SERVER_FAULTS = ("kill-server", "postgres-restart")
LEASE_FAULTS = ("redis-flush", "redis-restart")
EVENTS_SECONDS = 180.0
"""Seconds within which the server has written all events."""
LEASE = 30.0
"""Seconds after a fault for which a run may still hold a lease that is worth nothing."""


@dataclass
class Books:
    """The entries, in order. ``wrong`` has the names of those that must be 0 and are not."""

    entries: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    wrong: list[str] = field(default_factory=list[str])

    def note(self, name: str, value: Any) -> None:
        """Enter a value for information."""
        self.entries.append((name, str(value)))

    def require_none(self, name: str, found: list[str], explained: int | None = None) -> None:
        """Enter how many were found, which must be none. ``explained`` counts others."""
        apart = "" if explained is None else f" (and {explained} that a fault explains)"
        such_as = f": {', '.join(found[:4])}" if found else ""
        self.entries.append((name, f"{len(found)}{apart}{such_as}"))
        if found:
            self.wrong.append(name)

    def __str__(self) -> str:
        lines = [f"  {name:<36} {value}" for name, value in self.entries]
        balance = f"DO NOT BALANCE: {'; '.join(self.wrong)}" if self.wrong else "balance"
        return "\n".join([*lines, f"the books {balance}"])


class Bookkeeper:
    """Draws up the books when all work is over."""

    def __init__(self, servers: Servers, load: Load, faults: Faults) -> None:
        self.servers, self.load, self.faults = servers, load, faults
        self.records: dict[str, Record] = {record.request_id: record for record in load.store.all()}
        self.calls: dict[str, list[Call]] = defaultdict(list)
        for call in servers.recorder.calls:
            self.calls[load.request_of[call.md5]].append(call)
        self.in_hand: list[Call] = []
        """Answers whose process was killed before it could store them."""

    def draw_up(self) -> Books:
        """Return the books."""
        books = Books()
        self._requests(books)
        self._answers(books)
        self._calls(books)
        self._repetitions(books)
        with self.load.api() as api:
            self._runs(books, api)
            self._events(books, api)
        return books

    def _requests(self, books: Books) -> None:
        load = self.load
        requests = sorted(load.policy_of)
        verdicts = {name for name, record in self.records.items() if record.verdict}
        kinds = Counter(
            record.error.kind if record.error else str(record.outcome)
            for record in self.records.values()
            if record.verdict is None
        )
        kinds["input (no record)"] = len(load.broken - self.records.keys())
        kinds["cancelled (no record)"] = len(load.cancelled - self.records.keys())
        books.note("requests", len(requests))
        books.note("commands run and runs triggered", load.attempts)
        books.note("verdicts", len(verdicts))
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()) if count)
        books.note("failures by kind", said or "none")
        books.require_none("requests without an end", self._without_end())
        unread = [
            name
            for name in verdicts
            if not self.records[name].reply or self.records[name].intent is not None
        ]
        books.require_none("verdicts without an answer", unread)
        told = {line["request_id"] for line in load.result_lines() if line["verdict"]}
        books.require_none("verdicts told and not stored", sorted(told - verdicts))
        books.require_none("commands with a traceback", load.tracebacks)

    def _without_end(self) -> list[str]:
        load = self.load
        return [
            request_id
            for request_id in sorted(load.policy_of)
            if request_id not in load.final | load.broken | load.cancelled
        ]

    def _answers(self, books: Books) -> None:
        """Every answer that was delivered is known to the record of its request."""
        lost: list[str] = []
        given = 0
        for request_id, call in self._all_calls():
            if not call.answered:
                continue
            given += 1
            record = self.records.get(request_id)
            if record and record.reply and call.tencent_request_id in record.tencent_request_ids:
                continue
            if self._was_in_hand(call):
                self.in_hand.append(call)
            else:
                killed = self.faults.killed.get(call.pid or 0)
                end = f"killed {killed - call.ended:.1f} s later" if killed else "not killed"
                lost.append(f"{request_id} {call.tencent_request_id} ({end})")
        settings = DeliverySettings.load()
        spill = open_spill(settings, self.load.store.storage)
        books.note("answers delivered", given)
        books.require_none("answers lost", lost, len(self.in_hand))
        books.require_none("answers left in the spill", spill.all())

    def _was_in_hand(self, call: Call) -> bool:
        """Return whether the process was killed before it had the time to store the answer."""
        killed = self.faults.killed.get(call.pid or 0)
        if killed is None or killed < call.ended - 0.2:
            return False
        held_up = sum(
            max(0.0, min(killed, end) - max(call.ended, begin))
            for begin, end in [
                *((one.began, one.ended) for one in self.faults.happened),
                *((begin, end) for pid, begin, end in self.faults.stopped if pid == call.pid),
            ]
        )
        return killed - call.ended - held_up < IN_HAND_SECONDS

    def _calls(self, books: Books) -> None:
        """Every call of the emulator is in a record, and few others are."""
        by_records = sum(record.calls for record in self.records.values())
        by_recorder = sum(call.counts for _, call in self._all_calls())
        cut = sum(not call.arrived for _, call in self._all_calls())
        books.note("calls by records", by_records)
        by_emulators = self.servers.calls_by_emulators + self.servers.emulator_calls()
        books.note("calls by the emulator", by_emulators)
        books.note("calls that the recorder saw arrive", f"{by_recorder}, {cut} cut off before")
        unknown: list[str] = []
        never_left = 0
        for request_id in self.load.policy_of:
            record = self.records.get(request_id)
            counted = record.calls if record else 0
            calls = self.calls[request_id]
            arrived = sum(call.counts for call in calls)
            if counted < arrived:
                unknown.append(f"{request_id} {counted} < {arrived}")
            never_left += max(0, counted - arrived - sum(not call.arrived for call in calls))
        books.require_none("calls that no record knows", unknown)
        # Between the intent and the call a process may be killed, or what withdraws the intent may
        # not be stored.
        holes = len(self.faults.killed) + len(self.faults.stopped)
        holes += sum(one.fault.kind in STORAGE_FAULTS for one in self.faults.happened)
        books.note("calls in records that never left", f"{never_left} of {holes * CONCURRENCY}")
        if never_left > holes * CONCURRENCY or by_emulators > by_recorder:
            books.wrong.append("calls by records, and by the emulator")

    def _repetitions(self, books: Books) -> None:
        """No call follows a stored answer, or an unknown one that says stop."""
        again: list[str] = []
        against: list[str] = []
        slivers = stopped = 0
        for request_id, calls in self.calls.items():
            record = self.records.get(request_id)
            kept = record.reply.tencent_request_id if record and record.reply else None
            for call in calls:
                later = [other for other in calls if other.began > call.ended and call.ended]
                if not later:
                    continue
                said = f"{request_id} {later[0].began - call.ended:.1f} s later"
                if call.answered and call.tencent_request_id == kept:
                    if self._lease_was_lost(call):
                        slivers += len(later)
                    else:
                        again.append(said)
                is_unknown = not call.delivered or call in self.in_hand
                if is_unknown and self.load.policy_of[request_id] == "stop":
                    if self._lease_was_lost(call):
                        stopped += len(later)
                    else:
                        against.append(said)
        books.require_none("calls after a stored answer", again, slivers)
        books.require_none("calls after an unknown one, stop", against, stopped)

    def _lease_was_lost(self, call: Call) -> bool:
        """Return whether the lock of a call's run may have been gone while the call was out."""
        was_stopped = any(
            pid == call.pid and begin <= call.ended + IN_HAND_SECONDS and end >= call.began
            for pid, begin, end in self.faults.stopped
        )
        return was_stopped or self.faults.near(call.ended, *LEASE_FAULTS, before=LEASE)

    def _runs(self, books: Books, api: httpx.Client) -> None:
        """Every run that was triggered, or that a record names, is there and has ended."""
        runs = {run["id"]: run for run in _all_runs(api)}
        named = {entry.flow_run_id for record in self.records.values() for entry in record.runs}
        missing = sorted((named | set(self.load.triggered)) - runs.keys())
        ours = ("deliver", "batch", "requests")
        at_work = [
            f"{run['name']} {run['state_type']}"
            for run in runs.values()
            if run["state_type"] in ("RUNNING", "PENDING", "CANCELLING")
            and run["name"].startswith(ours)
        ]
        states = Counter(run["state_type"] for run in runs.values())
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        books.note("flow runs", said)
        books.require_none("runs missing", missing)
        books.require_none("runs without an end", at_work)

    def _events(self, books: Books, api: httpx.Client) -> None:
        """Every verdict was told by an event, unless a process was killed at that moment."""
        # The server writes events in the background, and goes on with that after a restart.
        began = time.monotonic()
        missing, explained = self._missing_events(api)
        while missing and time.monotonic() - began < EVENTS_SECONDS:
            time.sleep(1)
            missing, explained = self._missing_events(api)
        books.note("seconds until the last event", round(time.monotonic() - began))
        books.require_none("events missing", missing, explained)

    def _missing_events(self, api: httpx.Client) -> tuple[list[str], int]:
        """Return the requests whose verdict no event told, and how many others a fault explains."""
        told = {
            event["resource"]["prefect.resource.name"]
            for event in _all_events(api, ["faceid.delivery.verdict"])
        }
        missing: list[str] = []
        explained = 0
        for request_id, record in self.records.items():
            if record.verdict is None or request_id in told:
                continue
            calls = [call for call in self.calls[request_id] if call.answered]
            if any(self._event_was_cut_off(call) for call in calls):
                explained += 1
            else:
                missing.append(request_id)
        return missing, explained

    def _event_was_cut_off(self, call: Call) -> bool:
        is_killed = call.pid in self.faults.killed
        return is_killed or self.faults.near(call.ended, *SERVER_FAULTS, before=2)

    def _all_calls(self) -> Iterator[tuple[str, Call]]:
        for request_id, calls in self.calls.items():
            for call in calls:
                yield request_id, call


def runs_at_work(load: Load) -> bool:
    """Return whether a run of a flow but the sweep is at work, or is said to be."""
    types = ["RUNNING", "PENDING", "CANCELLING"]
    names = ["deliver", "deliver-batch", "deliver-shard"]
    query = {
        "flows": {"name": {"any_": names}},
        "flow_runs": {"state": {"type": {"any_": types}}},
        "limit": 1,
    }
    with load.api() as api:
        return bool(api.post("/flow_runs/filter", json=query).raise_for_status().json())


def _all_runs(api: httpx.Client) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        query = {"limit": 200, "offset": offset, "sort": "ID_DESC"}
        page = api.post("/flow_runs/filter", json=query).raise_for_status().json()
        if not page:
            return
        yield from page
        offset += len(page)


def _all_events(api: httpx.Client, names: list[str]) -> Iterator[dict[str, Any]]:
    query = {"filter": {"event": {"name": names}}, "limit": 50}
    page = api.post("/events/filter", json=query).raise_for_status().json()
    while True:
        yield from page["events"]
        if not page.get("next_page"):
            return
        page = api.get(page["next_page"]).raise_for_status().json()
