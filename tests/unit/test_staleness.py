"""A status is stale when it does not match what is in force."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.staleness import StatusBasis, is_stale
from gpuid_operator.plan.status_change import StatusContext

BASIS = StatusBasis(
    policy="p",
    generation=2,
    suspended=False,
    sinks=frozenset({("audit", "http")}),
    checks=frozenset({"nccl"}),
)
CONTEXT = StatusContext(
    policy="p",
    generation=2,
    sink_filters=(SinkFilter(name="audit", type="http", sightings=True),),
    checks=frozenset({"nccl"}),
)


def test_a_status_that_matches_is_not_stale() -> None:
    assert not is_stale(BASIS, CONTEXT)


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, policy="other"),
        replace(CONTEXT, policy=""),
        replace(CONTEXT, generation=3),
        replace(CONTEXT, suspended=True),
        replace(CONTEXT, sink_filters=()),
        replace(CONTEXT, sink_filters=(SinkFilter(name="audit", type="s3", sightings=True),)),
        replace(CONTEXT, sink_filters=(SinkFilter(name="other", type="http", sightings=True),)),
        replace(
            CONTEXT,
            sink_filters=(
                *CONTEXT.sink_filters,
                SinkFilter(name="new", type="http", sightings=True),
            ),
        ),
        replace(CONTEXT, checks=frozenset()),
        replace(CONTEXT, checks=frozenset({"other"})),
    ],
    ids=[
        "another policy",
        "the built-in policy",
        "another spec",
        "suspended",
        "no sink",
        "a sink of another type",
        "a sink of another name",
        "a new sink",
        "no check",
        "another check",
    ],
)
def test_a_status_that_differs_is_stale(context: StatusContext) -> None:
    assert is_stale(BASIS, context)


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, checks=frozenset({"nccl", "new"})),
        replace(CONTEXT, checks=None),
        replace(CONTEXT, sink_filters=(SinkFilter(name="audit", type="http", sightings=False),)),
    ],
    ids=["a check without a result", "all checks are kept", "other records for a sink"],
)
def test_what_the_status_does_not_show_makes_none_stale(context: StatusContext) -> None:
    assert not is_stale(BASIS, context)
