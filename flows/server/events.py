"""Emits the outcomes of requests and batches as Prefect events, for automations and webhooks.

::

    faceid.delivery.verdict | rerequested | failed                     about a request
    faceid.batch.completed | partial | waiting | failed | cancelled    about a batch's run
    faceid.requests.waiting             about a service: some of its requests have waited for long
    faceid.limit.reached                about an account and action: no call is left today

Values to filter by are labels of the event's resource. The payload is for the receivers of
webhooks. Prefect adds the flow run, its deployment and their tags as related resources. Events are
sent in the background. Nothing is lost if an event cannot be sent, because the outcomes are also in
records and result lines.
"""

from contextvars import ContextVar
from typing import Any, Literal

from prefect import get_run_logger
from prefect.events import emit_event as emit_prefect_event

from faceid.models import Service
from tasks.settings import DeliverySettings
from tasks.state.limits import DailyLimit, LimitReached

NOBODY_LISTENS: ContextVar[bool] = ContextVar("NOBODY_LISTENS", default=False)
"""Whether the Prefect server is a temporary one, which ends with this process."""

Kind = Literal["request", "batch", "requests", "limit"]
"""What an event is about: a request, a batch, several requests of a service, or a limit."""


def emit_event(
    event: str,
    *,
    kind: Kind,
    name: str,
    service: Service,
    labels: dict[str, str | None],
    payload: dict[str, Any],
    next_run: str | None = None,
) -> None:
    """Emit the event ``faceid.<event>`` about the resource ``faceid.<kind>.<service>.<name>``.

    ``labels`` maps names without the prefix ``faceid.`` to values; empty values are left out.
    ``next_run`` is the ID of the flow run that continues, if there is one. An event must not
    contain secrets, because everybody with access to the dashboard can read events, and nobody can
    delete them. A failure is logged and not raised.
    """
    resource = {
        "prefect.resource.id": f"faceid.{kind}.{service}.{name}",
        "prefect.resource.name": name,
        "faceid.service": service,
        **{f"faceid.{label}": value for label, value in labels.items() if value},
    }
    related = [
        {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "next-run"}
        for run in [next_run]
        if run
    ]
    try:
        emit_prefect_event(f"faceid.{event}", resource, related=related, payload=payload)
    except Exception as error:  # such as an event that is too large
        get_run_logger().warning("event %s was not sent (%s)", event, type(error).__name__)


def emit_limit_event(limit: DailyLimit, settings: DeliverySettings, reached: LimitReached) -> None:
    """Emit the event ``faceid.limit.reached`` about an action of an account."""
    emit_event(
        "limit.reached",
        kind="limit",
        name=f"{settings.account}.{limit.action}",
        service=settings.service,
        labels={"scope": "account", "account": settings.account, "target-action": limit.action},
        payload={
            "account": settings.account,
            "target_action": limit.action,
            "calls_per_day": limit.limit,
            "time_zone": limit.zone.key,
            "until": reached.until.isoformat(timespec="seconds"),
        },
    )
