"""The last step of a delivery: call the target action and read the verdict from its answer.

The call may be billed, so the record prevents it from being repeated. If an answer is stored, its
verdict is returned without another call. The intent to call is stored before the call, and the
answer is stored before this step returns.
"""

from typing import cast

from prefect import task
from prefect.states import Completed

from faceid.errors import (
    FaceIdError,
    NoAnswer,
    OutcomeUnknown,
    RateLimited,
    ResourceUnreadable,
    StorageError,
    WindowOver,
)
from faceid.models import OpenWindow, Reply, Verdict
from faceid.replies import read_verdict
from faceid.verification import call_fields
from tasks.cache import UNCACHED
from tasks.delivery import Delivery
from tasks.retries import RETRIES
from tasks.state.answers import keep_answer
from tasks.state.limits import Day
from tasks.state.records import Record
from tasks.state.spill import open_spill


@task(
    task_run_name="call {delivery.action.name}{delivery.suffix}",
    **UNCACHED,
    **RETRIES,
)
async def call_target_action(delivery: Delivery, window: OpenWindow | None) -> Verdict:
    """Return the stored verdict, in a state named ``Cached``; without one, call the action.

    ``window`` has the uploads for the call. It may be ``None`` if the action may not be called
    (``Delivery.may_call``). A negative verdict counts as a success.

    Raises ``OutcomeUnknown`` if a call was sent but not answered and the delivery's
    ``on_unknown_outcome`` is ``stop``; otherwise such a call is repeated. Raises ``LimitReached``
    if the account may not call the action again today, ``WindowOver`` if the uploads have expired
    in the meantime, ``StorageError`` if the call cannot be counted or the record cannot be written
    (if that concerns the intent, the action is not called), and the ``FaceIdError`` that
    corresponds to the service's error code.
    """
    record = delivery.record
    if record.verdict is not None:
        return _cached(record.verdict)
    if record.intent is not None and delivery.on_unknown_outcome == "stop":
        raise OutcomeUnknown(
            "OutcomeUnknown", f"the call of {record.intent.at:%Y-%m-%d %H:%M:%S} UTC has no answer"
        )
    assert window is not None
    for upload in window.uploads:
        delivery.require_open(upload.ticket)
    kept = await delivery.drain.bring_home(_call_and_keep(delivery, window))
    if kept is not record:
        delivery.record = kept
        return _cached(kept.verdict)
    assert kept.verdict is not None
    return kept.verdict


def _cached(verdict: Verdict | None) -> Verdict:
    # A state is returned, because only a state makes the dashboard show `Cached`. Prefect's types
    # expect a value.
    message = "The verdict was stored by another run."
    return cast("Verdict", Completed(name="Cached", message=message, data=verdict))


class _Departure:
    """Counts a call and stores the intent when it is its turn, and lets it leave under lock."""

    def __init__(self, delivery: Delivery) -> None:
        self.before = delivery.record.intent
        self.is_intended = False
        self.was_kept_back = False
        self._delivery = delivery
        self._counted: Day | None = None

    async def prepare(self) -> None:
        """Count the call and store the intent, once for all times that the call is signed.

        Raises ``LimitReached`` if the limit allows no more calls today. If the intent cannot be
        stored, it is withdrawn, and ``StorageError`` is raised. From here on, the call counts as in
        flight: a run that is told to end waits for it.
        """
        if self.is_intended:
            return
        self._delivery.drain.begin_call()
        if self._delivery.limit:
            self._counted = await self._delivery.limit.take()
        record = self._delivery.record
        record.intend_call()
        try:
            await self._delivery.save()
        except StorageError:
            record.withdraw_call(self.before)
            await self.give_back()
            raise
        self.is_intended = True

    async def give_back(self) -> None:
        """Take the call off the count of its day, because the action has not received it."""
        if self._delivery.limit and self._counted:
            await self._delivery.limit.give_back(self._counted)

    async def confirm(self) -> None:
        """Raise ``StorageError`` unless the request's lock is held at this moment."""
        self.was_kept_back = True
        await self._delivery.lease.confirm()
        self.was_kept_back = False


async def _call_and_keep(delivery: Delivery, window: OpenWindow) -> Record:
    """Call the action, and return the record that is stored with the answer.

    This is another record if another run has overtaken this one.
    """
    reply, verdict = await _call(delivery, window)
    # If the run has files to save, it does not end with the answer.
    delivery.record.answer(reply, verdict, ends_run=not delivery.wants_files)
    spill = open_spill(delivery.settings, delivery.store.storage)
    return await keep_answer(delivery.store, spill, delivery.record, delivery.settings.wait_in_run)


async def _call(delivery: Delivery, window: OpenWindow) -> tuple[Reply, Verdict]:
    """Call the action, and return its answer and the verdict in it.

    If the call fails, what is known about the call is saved in the record before the error is
    raised.
    """
    record, departure = delivery.record, _Departure(delivery)
    try:
        with delivery.lease.not_to_be_cut_off():
            reply = await delivery.client.call(
                delivery.action.name,
                delivery.request.region,
                call_fields(delivery.action, delivery.request.parameters, window.uploads),
                departure,
            )
        return reply, read_verdict(delivery.action, reply)
    except NoAnswer as error:
        # The intent is kept, because the service may have carried out the call.
        delivery.note(error)
        await delivery.save()
        if delivery.on_no_answer:
            delivery.on_no_answer()
        if delivery.on_unknown_outcome == "stop":
            raise OutcomeUnknown(error.code, error.message, host=error.host) from None
        raise
    except FaceIdError as error:
        if not departure.is_intended:
            raise
        was_throttled = isinstance(error, RateLimited)
        was_sent = not departure.was_kept_back and bool(error.tencent_request_id)
        reached_action = was_sent and not was_throttled
        record.refuse_call(reached_action=reached_action, before=departure.before)
        if not reached_action:
            await departure.give_back()
        delivery.note(error)
        await delivery.save()
        if isinstance(error, ResourceUnreadable):
            await _raise_if_gone(delivery, window)
        raise


async def _raise_if_gone(delivery: Delivery, window: OpenWindow) -> None:
    """Raise ``WindowOver`` if a ticket has expired or its resource is no longer in the store."""
    for upload in window.uploads:
        delivery.require_open(upload.ticket)
        if not await delivery.client.resource_exists(upload.ticket):
            raise WindowOver(
                "ResourceGone", f"resource {upload.field}: the store no longer has the file"
            )
