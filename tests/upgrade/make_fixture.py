"""Makes a fixture of ``test_upgrade.py``: a system that a version of this project leaves behind.

Check out the version, and run this program with the packages that it needs::

    git worktree add /tmp/before f004063
    PYTHONPATH=. python -m tests.upgrade.make_fixture /tmp/before before_0_2

It writes two files beside this one. ``before_0_2.tar.xz`` contains Prefect's home (its database and
``FACEID_STORAGE``), and the files and manifests that the requests name. All of it is synthetic,
and the keys are the emulator's. ``before_0_2.json`` says of each request what ``faceid
status`` said of it, and what is to become of it after an upgrade.

The windows of this system are two minutes long, so that all of them are over when it is upgraded.
"""

import hashlib
import json
import shutil
import sqlite3
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

from faceid.samples import copy_samples
from tests.sample_request import REQUEST
from tests.upgrade.making import System, running
from tests.waiting import until

FOLDER = Path("/tmp/faceid-fixture")
"""Folder of the system. It stands in some of the records, so it is the same everywhere."""

SETTINGS = {
    "FACEID_EMULATOR_WINDOW": "120",
    "FACEID_WAIT_IN_RUN": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
}
BLOCK = "kiosk"
ACTION = "VideoLivenessCompare"
TICKET = "CreateUploadUrl"
OTHER_FILES = {"ImageUrl": "birch.jpg", "VideoUrl": "birch.mp4"}

BLOCK_PROGRAM = f"""
import os
from tasks.credentials import TencentCredentials

TencentCredentials(
    secret_id=os.environ["TENCENTCLOUD_SECRET_ID"],
    secret_key=os.environ["TENCENTCLOUD_SECRET_KEY"],
    account="{BLOCK}",
).save("{BLOCK}")
"""


class Maker:
    """Makes the requests of the fixture, and collects what is to become of each."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.requests: dict[str, dict[str, Any]] = {}
        self.batches: list[dict[str, str]] = []

    def make(self) -> None:
        """Make everything, in the order in which it is to be read."""
        self.system.command("-c", BLOCK_PROGRAM)
        self._verdicts()
        self._failures()
        self._waiting()
        self._killed()
        self._batches()
        self._note_states()

    def _verdicts(self) -> None:
        self.deliver("verdict-passed")
        self.deliver("verdict-result", fault=(ACTION, "result:FailedOperation.LivessDetectFake"))
        self.deliver("verdict-error", fault=(ACTION, "api:FailedOperation.CompareLowSimilarity"))
        self.deliver(
            "verdict-other-action",
            target_action="DetectReflectLivenessAndCompare",
            region="ap-hongkong",
            resources={"LiveDataUrl": "alder.mp4", "ImageUrl": "alder.jpg"},
            action_parameters={},
        )
        self.deliver("verdict-block", credentials=BLOCK)
        self.deliver("verdict-saved-files", save_files_to="saved")
        self.deliver("verdict-second-window", "rerequested", fault=(TICKET, "expire-now"))
        message = self.system.work(self._follow_up("verdict-second-window"))
        assert message.startswith("verdict: "), message

    def _failures(self) -> None:
        missing = REQUEST["resources"] | {"ImageUrl": "missing.jpg"}
        self.deliver("failed-input", "invalid-input", resources=missing)
        refused = "api:FailedOperation.ImageDecodeFailed"
        self.deliver("failed-refused-file", "invalid-input", fault=(ACTION, refused))
        in_arrears = "api:ResourceUnavailable.InArrears"
        self.deliver("failed-account", "invalid-input", fault=(ACTION, in_arrears))
        self.deliver(
            "failed-unavailable",
            "unavailable",
            fault=(ACTION, "http:503"),
            environment={"FACEID_GIVE_UP_AFTER": "0"},
        )
        self.deliver(
            "failed-windows", "windows-used-up", fault=(TICKET, "expire-now"), max_windows=1
        )
        self.deliver(
            "failed-unknown",
            "outcome-unknown",
            fault=(ACTION, "commit-then-reset"),
            on_unknown_outcome="stop",
        )

    def _waiting(self) -> None:
        over, down = (TICKET, "expire-now"), (ACTION, "http:503")
        self.deliver("waiting-window", "rerequested", fault=over, becomes="verdict", more=1)
        self.deliver("waiting-service", "rerequested", fault=down, becomes="verdict", more=1)
        self.deliver(
            "waiting-block",
            "rerequested",
            fault=over,
            becomes="verdict",
            more=1,
            credentials=BLOCK,
        )
        self.deliver("waiting-cancelled", "rerequested", fault=over, becomes="cancelled")
        self.system.set_state(self._follow_up("waiting-cancelled"), "CANCELLED")
        self._trigger("waiting-to-begin", becomes="verdict", more=1)

    def _killed(self) -> None:
        self.kill("killed-before-call", "PutObject", becomes="verdict", more=1)
        self.kill("killed-in-call", ACTION, becomes="verdict", more=1)
        self.kill(
            "killed-in-call-stop", ACTION, becomes="outcome-unknown", on_unknown_outcome="stop"
        )

    def _batches(self) -> None:
        # One of the batch's requests waits for the service; a later batch is to continue it.
        run_id = self._trigger_batch("people.jsonl", "waiting-batch")
        with self._fault(ACTION, "http:503", OTHER_FILES):
            message = self.system.work(run_id)
        assert message.startswith("partial: "), message
        # The other batch dies while one of its requests is being called.
        run_id = self._trigger_batch("more.jsonl", "killed-batch")
        before = self.system.called(ACTION)
        with self._fault(ACTION, "delay:3600", OTHER_FILES):
            process = self.system.begin(run_id)
            until(lambda: self.system.called(ACTION) >= before + 4, "the calls of the batch")
            names = [f"killed-batch-{number}" for number in range(1, 4)]
            until(lambda: self._have_verdicts(*names), "the other requests' verdicts")
            process.kill()
            process.wait()

    def deliver(
        self,
        request_id: str,
        outcome: str = "verdict",
        *,
        fault: tuple[str, str] | None = None,
        environment: dict[str, str] | None = None,
        becomes: str = "",
        more: int = 0,
        **changes: Any,
    ) -> None:
        """Deliver a request in a run that ends with ``outcome``.

        ``fault`` is an operation and what it does during the run. ``becomes`` is the state in which
        the request is to end after the upgrade, if it is still open, and ``more`` the number of
        calls that this takes.
        """
        run_id = self._trigger(request_id, becomes=becomes, more=more, **changes)
        if fault:
            self.system.emulator.add_fault(*fault, times=None)
        message = self.system.work(run_id, **(environment or {}))
        self.system.emulator.clear_faults()
        assert message.startswith(f"{outcome}: "), message

    def kill(
        self, request_id: str, op: str, *, becomes: str, more: int = 0, **changes: Any
    ) -> None:
        """Deliver a request, and kill its run while the service carries out ``op``."""
        run_id = self._trigger(request_id, becomes=becomes, more=more, **changes)
        before = self.system.called(op)
        self.system.emulator.add_fault(op, "delay:3600", times=None)
        process = self.system.begin(run_id)
        until(lambda: self.system.called(op) > before, f"a call of {op}")
        process.kill()
        process.wait()
        self.system.emulator.clear_faults()

    def _trigger(self, request_id: str, *, becomes: str = "", more: int = 0, **changes: Any) -> str:
        parameters = REQUEST | {"request_id": request_id} | changes
        self._expect(request_id, parameters, becomes, more)
        return self.system.trigger("deliver/default", parameters)

    def _trigger_batch(self, manifest: str, prefix: str) -> str:
        """Trigger a batch of four requests, the last of which has files of its own."""
        requests = [REQUEST | {"request_id": f"{prefix}-{number}"} for number in range(1, 5)]
        requests[-1] |= {"resources": OTHER_FILES}
        for request in requests:
            self._expect(request["request_id"], request, "verdict", int(request is requests[-1]))
        lines = "".join(f"{json.dumps(request)}\n" for request in requests)
        (self.system.folder / manifest).write_text(lines)
        run_id = self.system.trigger("deliver-batch/default", {"manifest": manifest})
        self.batches.append({"manifest": manifest, "flow_run_id": run_id})
        return run_id

    def _expect(self, request_id: str, parameters: dict[str, Any], becomes: str, more: int) -> None:
        assert request_id not in self.requests
        self.requests[request_id] = {
            "parameters": parameters,
            "open": bool(becomes),
            "becomes": becomes,
            "more": more,
        }

    def _fault(self, op: str, do: str, files: dict[str, str]) -> "_Fault":
        content = (self.system.folder / files["ImageUrl"]).read_bytes()
        return _Fault(self.system, op, do, hashlib.md5(content).hexdigest())

    def _follow_up(self, request_id: str) -> str:
        return self.system.runs(f"request:{request_id}")[-1]["id"]

    def _have_verdicts(self, *request_ids: str) -> bool:
        known = self.system.status(*request_ids).values()
        return [one["state"] for one in known] == ["verdict"] * len(request_ids)

    def _note_states(self) -> None:
        """Add what ``faceid status`` says of each request."""
        for credentials in ("", BLOCK):
            mine = [
                name
                for name, request in self.requests.items()
                if request["parameters"].get("credentials", "") == credentials
            ]
            known = self.system.status(*mine, credentials=credentials)
            for name in mine:
                status = known.get(name, {"state": "new", "calls": 0, "windows": 0})
                request = self.requests[name]
                request["state"] = status["state"]
                request["becomes"] = request["becomes"] or status["state"]
                request["calls"] = status["calls"]
                request["windows"] = status["windows"]
                request["flow_run_ids"] = [
                    run["flow_run_id"] for run in status.get("flow_runs", ())
                ]


class _Fault:
    """A fault of the requests with a certain file, for the time of a ``with`` statement."""

    def __init__(self, system: System, op: str, do: str, md5: str) -> None:
        self._system, self._rule = system, (op, do, None, {"md5": md5})

    def __enter__(self) -> None:
        self._system.emulator.add_fault(*self._rule)

    def __exit__(self, *_: object) -> None:
        self._system.emulator.clear_faults()


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a stopped system to an archive, its database as SQL in ``prefect.sql``."""
    database = folder / "prefect" / "prefect.db"
    with closing(sqlite3.connect(database)) as connection:
        for table in ("event_resources", "events", "log"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute(
            "DELETE FROM task_run_state WHERE id NOT IN "
            "(SELECT state_id FROM task_run WHERE state_id IS NOT NULL)"
        )
        connection.commit()
        database.with_suffix(".sql").write_text("\n".join(connection.iterdump()))
    for file in folder.glob("prefect/prefect.db*"):
        file.unlink()
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(folder, arcname=".", filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def main(checkout: Path, name: str) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(mode=0o700)
    copy_samples(FOLDER)
    with running(checkout, FOLDER, SETTINGS) as system:
        maker = Maker(system)
        maker.make()
    here = Path(__file__).parent
    pack(FOLDER, here / f"{name}.tar.xz")
    about = {"requests": maker.requests, "batches": maker.batches}
    (here / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
