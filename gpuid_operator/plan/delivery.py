"""The next status after a delivery to a sink, or an attempt at one."""

from __future__ import annotations

from datetime import datetime

from gpuid_operator.api.inventory import InventoryStatus, SinkStatus
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
    sinks = outbox.acknowledged(
        _settled(previous, context),
        name=sink_filter.name,
        type_=sink_filter.type,
        up_to=min(up_to, previous.sequence),
        now=now,
    )
    return _with_sinks(previous, sinks, now=now, context=context)


def after_delivery_failure(
    previous: InventoryStatus,
    sink_filter: SinkFilter,
    *,
    error: str,
    now: datetime,
    context: StatusContext,
) -> StatusChange:
    """The status after a sink did not accept the pending entries."""
    sinks = outbox.failing(
        _settled(previous, context),
        name=sink_filter.name,
        type_=sink_filter.type,
        error=error,
        now=now,
    )
    return _with_sinks(previous, sinks, now=now, context=context)


def _settled(previous: InventoryStatus, context: StatusContext) -> list[SinkStatus]:
    """The cursors of the sinks in effect now, which may be others than those of the status."""
    return outbox.settle(
        previous.sinks,
        previous.history or (),
        sink_filters=context.sink_filters,
        sequence=previous.sequence,
    )


def _with_sinks(
    previous: InventoryStatus, sinks: list[SinkStatus], *, now: datetime, context: StatusContext
) -> StatusChange:
    return build_change(
        previous, {"sinks": sinks}, [], writer=writer_of(previous, now), context=context, updates={}
    )
