"""What the steps of one delivery share: the request, the client, and what happened so far."""

from typing import Literal

from faceid.actions import TargetAction
from faceid.client import FaceIdClient
from faceid.errors import FaceIdError
from faceid.models import CheckedRequest
from faceid.settings import FaceIdSettings

OnUnknownOutcome = Literal["call_again", "stop"]


class Delivery:
    """One request on its way to its verdict.

    A plain class: Prefect walks through dataclasses and models that are handed to a task.
    """

    def __init__(
        self,
        request: CheckedRequest,
        action: TargetAction,
        client: FaceIdClient,
        settings: FaceIdSettings,
        on_unknown_outcome: OnUnknownOutcome = "call_again",
    ) -> None:
        self.request = request
        self.action = action
        self.client = client
        self.settings = settings
        self.on_unknown_outcome: OnUnknownOutcome = on_unknown_outcome
        self.window = 0
        """The number of the window that is open or being opened; 0 before the first."""
        self.calls = 0
        """Target-action requests sent and not throttled, unanswered ones included."""
        self.tencent_request_ids: list[str] = []

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def note(self, answer: str | FaceIdError) -> None:
        """Keeps the Tencent request ID of an answer, or of an error that has one."""
        found = answer.tencent_request_id if isinstance(answer, FaceIdError) else answer
        if found and found not in self.tencent_request_ids:
            self.tencent_request_ids.append(found)
