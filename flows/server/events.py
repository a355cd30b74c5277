"""What became of requests and batches, as Prefect events: for automations, and for who listens.

::

    faceid.delivery.verdict | rerequested | failed                     of a request
    faceid.batch.completed | partial | waiting | failed | cancelled    of a batch's run
    faceid.requests.waiting                        of a service: some wait for too long

What may be filtered by is a label of the resource; the payload is for who is called back. Prefect
adds the flow run, its deployment and their tags as related resources. An event is sent on and never
waited for, and one that cannot be sent does no harm: the truth is in records and result lines.
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
    """Sends ``faceid.<event>`` of the resource ``faceid.<kind>.<service>.<name>``.

    ``labels`` are named without their ``faceid.``, and those that say nothing are left out.
    ``next_run`` is the flow run that goes on. Nothing secret may be in any of it: events can be
    read by all who see the dashboard, and nobody can delete them.
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
    except Exception as error:  # too large, or whatever Prefect makes of its own state
        get_run_logger().warning("event %s is not sent (%s)", event, type(error).__name__)
