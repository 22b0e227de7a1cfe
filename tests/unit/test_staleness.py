"""A status is stale when it does not match what is in force."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuid_operator.api.inventory import ConditionStatus
from gpuid_operator.api.policy import Expectation
from gpuid_operator.plan.conditions import ConditionUpdate
from gpuid_operator.plan.duplicates import Duplicate
from gpuid_operator.plan.expectation import Hardware
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.staleness import StatusBasis, is_stale
from gpuid_operator.plan.status_change import StatusContext

BASIS = StatusBasis(
    policy="p",
    generation=2,
    suspended=False,
    sinks=frozenset({("audit", "http")}),
    checks=frozenset({"nccl"}),
    hardware=Hardware(gpus=8, products=("H100",), driver="570"),
    as_expected=ConditionUpdate(ConditionStatus.TRUE, "AsExpected"),
)
CONTEXT = StatusContext(
    policy="p",
    generation=2,
    sink_filters=(SinkFilter(name="audit", type="http", sightings=True),),
    checks=frozenset({"nccl"}),
    expect=Expectation(gpus=8),
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
        replace(CONTEXT, expect=None),
        replace(CONTEXT, expect=Expectation(gpus=7)),
        replace(CONTEXT, expect=Expectation(gpus=8, products=["H200"])),
        replace(CONTEXT, duplicates=(Duplicate("GPU-1", ("n2",), more=False),)),
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
        "nothing is expected",
        "another number of GPUs is expected",
        "another product is expected",
        "another inventory lists its GPU",
    ],
)
def test_a_status_that_differs_is_stale(context: StatusContext) -> None:
    assert is_stale(BASIS, context)


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, checks=frozenset({"nccl", "new"})),
        replace(CONTEXT, checks=None),
        replace(CONTEXT, expect=Expectation(gpus=8, drivers=["560", "570"])),
        replace(CONTEXT, duplicates=None),
        replace(CONTEXT, sink_filters=(SinkFilter(name="audit", type="http", sightings=False),)),
    ],
    ids=[
        "a check without a result",
        "all checks are kept",
        "an expectation that is met, too",
        "another inventory that may list its GPU no longer",
        "other records for a sink",
    ],
)
def test_what_the_status_does_not_show_makes_none_stale(context: StatusContext) -> None:
    assert not is_stale(BASIS, context)


ELSEWHERE = ConditionUpdate(ConditionStatus.FALSE, "SeenElsewhere", "GPU-1 on n2, too")
FAILED = ConditionUpdate(ConditionStatus.FALSE, "TooFewGPUs", "1 of 9 expected GPUs is missing")
GONE = ConditionUpdate(ConditionStatus.UNKNOWN, "NodeDeparted", "the node is gone")


@pytest.mark.parametrize(
    ("basis", "stale"),
    [
        (replace(BASIS, as_expected=None), True),
        (replace(BASIS, unique=ELSEWHERE), True),
        (replace(BASIS, as_expected=FAILED), True),
        (replace(BASIS, hardware=None), True),
        (replace(BASIS, departed=True), True),
        (replace(BASIS, departed=True, as_expected=GONE), False),
        (replace(BASIS, departed=True, as_expected=None), False),
    ],
    ids=[
        "it was not judged",
        "its GPU is no duplicate any more",
        "it says something else",
        "not read",
        "departed since",
        "departed",
        "departed before it was judged",
    ],
)
def test_what_the_conditions_of_a_status_say(basis: StatusBasis, stale: bool) -> None:
    assert is_stale(basis, CONTEXT) is stale
