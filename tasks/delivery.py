"""What the steps of one delivery share: the request, the client, the record."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from prefect.runtime import task_run

from faceid.actions import TargetAction
from faceid.client import FaceIdClient
from faceid.errors import FaceIdError
from faceid.models import CheckedRequest, UploadTicket
from faceid.settings import FaceIdSettings
from tasks.state.claims import Claim
from tasks.state.record_store import RecordStore

OnUnknownOutcome = Literal["call_again", "stop"]


class Delivery:
    """One request on its way to its verdict.

    A plain class: Prefect walks through dataclasses and models that are handed to a task.
    """

    def __init__(
        self,
        action: TargetAction,
        client: FaceIdClient,
        settings: FaceIdSettings,
        store: RecordStore,
        taken: Claim,
        on_unknown_outcome: OnUnknownOutcome = "call_again",
        *,
        wants_files: bool = False,
        in_batch: bool = False,
    ) -> None:
        self.action = action
        self.client = client
        self.settings = settings
        self.store = store
        self.record = taken.record
        self.is_follow_up = taken.is_follow_up
        self.on_unknown_outcome: OnUnknownOutcome = on_unknown_outcome
        self.wants_files = wants_files
        """Whether the files that the answer points to are to be saved after the verdict."""
        self.in_batch = in_batch
        self.saw_open_window = False
        """Whether this run opened a window, or found one that is open."""
        self._request = taken.request

    @property
    def request(self) -> CheckedRequest:
        """The request with its files measured; a request that has its verdict has no need of it."""
        assert self._request is not None
        return self._request

    @property
    def suffix(self) -> str:
        """What steps are named by besides: the request, where a flow run has many."""
        return f" {self.record.request_id}" if self.in_batch else ""

    @property
    def may_call(self) -> bool:
        """Whether the target action may be called: not after its verdict, nor where a call's
        outcome is unknown and that is to stop the delivery."""
        record = self.record
        stopped = record.intent is not None and self.on_unknown_outcome == "stop"
        return record.verdict is None and not stopped

    @property
    def opens_windows(self) -> bool:
        """Whether this run itself opens the next window when one is over, and leaves it to no
        other: where no other can be scheduled, or where it came late for the one of before."""
        came_late = self.is_follow_up and not self.saw_open_window
        return self.record.origin is None or came_late

    def require_open(self, ticket: UploadTicket) -> None:
        """Raises ``WindowOver`` when less than ``FACEID_EXPIRY_MARGIN`` is left of the ticket."""
        margin = timedelta(seconds=self.settings.expiry_margin)
        ticket.require_open(self.client.server_now(), margin)

    def note(self, answer: str | FaceIdError) -> None:
        """Keeps the Tencent request ID of an answer, or of an error that has one."""
        found = answer.tencent_request_id if isinstance(answer, FaceIdError) else answer
        self.record.note(found)

    async def save(self) -> None:
        """Writes the record. Durable when it returns; else ``StorageError``."""
        await self.store.save(self.record)


def step_name(step: str) -> Callable[[], str]:
    """The name of a task run: its step, its resource, and its window where that is not the first.

    Prefect calls it with the task run's parameters at hand.
    """

    def name() -> str:
        parameters = task_run.parameters
        window = parameters["delivery"].record.window
        later = f", window {window}" if window > 1 else ""
        return f"{step} {parameters['file'].field}{parameters['delivery'].suffix}{later}"

    return name
