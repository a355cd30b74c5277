"""Emits the outcomes of requests and batches as Prefect events, for automations and listeners.

::

    faceid.delivery.verdict | rerequested | failed                     of a request
    faceid.batch.completed | partial | waiting | failed | cancelled    of a batch's run
    faceid.requests.waiting                        of a service: some wait for too long

Values to filter by are labels of the resource; the payload is for the receivers of webhooks.
Prefect adds the flow run, its deployment and their tags as related resources. Events are sent in
the background. An event that cannot be sent does no harm, because records and result lines hold the
outcomes.
"""

from typing import Any, Literal

from prefect import get_run_logger
from prefect.events import emit_event as emit_prefect_event

from faceid.models import Service

Kind = Literal["request", "batch", "requests"]


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
    """Emit the event ``faceid.<event>`` of the resource ``faceid.<kind>.<service>.<name>``.

    ``labels`` are named without the prefix ``faceid.``, and empty ones are left out. ``next_run``
    is the ID of the flow run that continues. Nothing in an event may be secret: everybody with
    access to the dashboard can read events, and nobody can delete them. A failure is logged, not
    raised.
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
