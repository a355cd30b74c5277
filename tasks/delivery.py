"""The state that the steps of a delivery share: the request, the client and the record."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from prefect.runtime import task_run

from faceid.actions import TargetAction
from faceid.client import FaceIdClient
from faceid.errors import FaceIdError
from faceid.files.sources import Patience
from faceid.models import CheckedRequest, UploadTicket
from tasks.drain import Drain
from tasks.settings import DeliverySettings
from tasks.state.claims import Claim
from tasks.state.limits import open_limit
from tasks.state.record_store import RecordStore

OnUnknownOutcome = Literal["call_again", "stop"]
"""What to do if a call was sent and its answer was lost: repeat the call, or fail the request."""


class Delivery:
    """The delivery of one request by one run.

    This is a plain class, because Prefect looks for dependencies inside the dataclasses and models
    that are passed to tasks.
    """

    def __init__(
        self,
        action: TargetAction,
        client: FaceIdClient,
        settings: DeliverySettings,
        store: RecordStore,
        taken: Claim,
        patience: Patience,
        drain: Drain,
        on_unknown_outcome: OnUnknownOutcome = "call_again",
        *,
        wants_files: bool = False,
        in_batch: bool = False,
        on_no_answer: Callable[[], None] | None = None,
    ) -> None:
        self.action = action
        """The target action of the request."""
        self.client = client
        """The client of the account."""
        self.settings = settings
        """The settings of the run."""
        self.store = store
        """The store that the record is saved in."""
        self.record = taken.record
        """The record of the request, which this run has claimed."""
        self.is_follow_up = taken.is_follow_up
        self.lease = taken.lease
        """Whether this run is the follow-up that was scheduled for the request."""
        self.patience = patience
        """How long a source may take."""
        self.drain = drain
        """Knows whether the run has been told to end, and is told when a call is in flight."""
        self.on_unknown_outcome: OnUnknownOutcome = on_unknown_outcome
        """What to do if a call was sent and its answer was lost."""
        self.wants_files = wants_files
        """Whether to save the files that the answer links to after the verdict."""
        self.in_batch = in_batch
        """Whether the request is delivered as part of a batch."""
        self.on_no_answer = on_no_answer
        """Called after each call that was sent and not answered, if set."""
        self.limit = open_limit(settings, store.storage, action.name)
        """The limit on the action's calls in a day; ``None`` if there is none."""
        self.saw_open_window = False
        """Whether this run has opened a window or found an open one."""
        self._request = taken.request

    @property
    def request(self) -> CheckedRequest:
        """The request with its checked files. Must not be used if the request has its verdict."""
        assert self._request is not None
        return self._request

    @property
    def suffix(self) -> str:
        """Suffix for names of task runs: a space and the request ID in a batch, otherwise empty."""
        return f" {self.record.request_id}" if self.in_batch else ""

    @property
    def may_call(self) -> bool:
        """Whether the target action may be called.

        It may not if the request has its verdict, or if the outcome of a call is unknown and
        ``on_unknown_outcome`` is ``stop``.
        """
        record = self.record
        stopped = record.intent is not None and self.on_unknown_outcome == "stop"
        return record.verdict is None and not stopped

    @property
    def opens_windows(self) -> bool:
        """Whether this run opens the next window itself instead of leaving it to a follow-up.

        This is the case if no follow-up can be scheduled, or if this run is a follow-up that
        started too late and found its window already over.
        """
        came_late = self.is_follow_up and not self.saw_open_window
        return self.record.origin is None or came_late

    def require_open(self, ticket: UploadTicket) -> None:
        """Raise ``WindowOver`` unless the ticket is valid for ``FACEID_EXPIRY_MARGIN`` seconds."""
        margin = timedelta(seconds=self.settings.expiry_margin)
        ticket.require_open(self.client.server_now(), margin)

    def note(self, answer: str | FaceIdError) -> None:
        """Add a Tencent request ID to the record, but do not save the record.

        ``answer`` is the ID, or an error, which may have one.
        """
        found = answer.tencent_request_id if isinstance(answer, FaceIdError) else answer
        self.record.note(found)

    async def finds_verdict(self) -> bool:
        """Return whether another run has stored the verdict, and go on with its record if so."""
        stored = await self.store.load(self.record.request_id)
        if stored is None or stored.verdict is None:
            return False
        self.record = stored
        return True

    async def save(self) -> None:
        """Write the record to the storage.

        Raises ``StorageError`` if it cannot be written, or if another run has claimed the request.
        """
        await self.store.save(self.record)


def step_name(step: str) -> Callable[[], str]:
    """Return a function that Prefect calls to name a task run of this step.

    The name consists of the step, the resource field, the request ID if the request is part of a
    batch, and the number of the window unless it is the first.
    """

    def name() -> str:
        parameters = task_run.parameters
        window = parameters["delivery"].record.window
        later = f", window {window}" if window > 1 else ""
        return f"{step} {parameters['file'].field}{parameters['delivery'].suffix}{later}"

    return name
