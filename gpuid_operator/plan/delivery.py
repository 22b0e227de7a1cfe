"""The next status after a delivery to a sink, or an attempt at one."""

from __future__ import annotations

from datetime import datetime

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.plan import outbox
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.status_change import StatusChange, StatusContext, build_change, writer_of


def after_delivery(
    previous: InventoryStatus,
    sink_filter: SinkFilter,
    *,
    up_to: int,
    now: datetime,
    context: StatusContext,
) -> StatusChange:
    """The status after a sink accepted every entry up to `up_to`."""
    settled = outbox.settle(
        previous.sinks,
        previous.history or (),
        sink_filters=context.sink_filters,
        sequence=previous.sequence,
    )
    sinks = outbox.acknowledged(
        settled,
        name=sink_filter.name,
        type_=sink_filter.type,
        up_to=min(up_to, previous.sequence),
        now=now,
    )
    return build_change(
        previous, {"sinks": sinks}, [], writer=writer_of(previous, now), context=context, updates={}
    )


def after_delivery_failure(
    previous: InventoryStatus,
    sink_filter: SinkFilter,
    *,
    error: str,
    now: datetime,
    context: StatusContext,
) -> StatusChange:
    """The status after a sink did not accept the pending entries."""
    settled = outbox.settle(
        previous.sinks,
        previous.history or (),
        sink_filters=context.sink_filters,
        sequence=previous.sequence,
    )
    sinks = outbox.failing(
        settled, name=sink_filter.name, type_=sink_filter.type, error=error, now=now
    )
    return build_change(
        previous, {"sinks": sinks}, [], writer=writer_of(previous, now), context=context, updates={}
    )
