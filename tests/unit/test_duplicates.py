"""When two reads show that two nodes have one GPU, and what the condition Unique says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuid_operator.api.inventory import ConditionStatus, ConditionType
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, ConditionUpdate, shown
from gpuid_operator.plan.duplicates import WINDOW, Duplicate, is_duplicate, unique
from tests.support.read_node import A, B, ReadNode, known

LONG_AGO = float("-inf")
TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
UNIQUE = ConditionUpdate(TRUE, "Unique")
GONE = ConditionUpdate(UNKNOWN, "NodeDeparted", "the node is gone")
ELSEWHERE = ConditionUpdate(FALSE, "SeenElsewhere", "nvidia-smi lists GPU-1 on n2, too")
ON_N2 = (Duplicate("GPU-1", ("n2",), more=False),)


@pytest.mark.parametrize(
    ("read", "other", "here", "everywhere", "certain"),
    [
        pytest.param(12, 9, LONG_AGO, 10, True, id="read again after the other one listed it"),
        pytest.param(12, 13, LONG_AGO, 10, True, id="both were read again"),
        pytest.param(12, None, LONG_AGO, 10, False, id="the other was read by an earlier process"),
        pytest.param(8, 9, LONG_AGO, 10, False, id="not read again yet"),
        pytest.param(12, 3, 5, 5, False, id="listed here first after the read of the other"),
        pytest.param(10 + WINDOW, 10, LONG_AGO, 10, True, id="just recent enough"),
        pytest.param(11 + WINDOW, 10, LONG_AGO, 10, False, id="too long ago"),
        pytest.param(10, 11 + WINDOW, LONG_AGO, 10, False, id="this read took too long"),
    ],
)
def test_two_reads_that_list_a_gpu(
    read: float, other: float | None, here: float, everywhere: float, certain: bool
) -> None:
    assert is_duplicate(read, other, here=here, everywhere=everywhere) is certain


@pytest.mark.parametrize(
    ("duplicates", "before", "after"),
    [
        ((), None, None),
        ((), UNIQUE, UNIQUE),
        ((), ELSEWHERE, UNIQUE),
        ((), GONE, UNIQUE),
        (None, None, None),
        (None, UNIQUE, UNIQUE),
        (None, ELSEWHERE, ELSEWHERE),
        (ON_N2, None, ELSEWHERE),
        (ON_N2, UNIQUE, ELSEWHERE),
        (ON_N2, GONE, ELSEWHERE),
    ],
)
def test_the_condition(
    duplicates: tuple[Duplicate, ...] | None,
    before: ConditionUpdate | None,
    after: ConditionUpdate | None,
) -> None:
    assert unique(duplicates, departed=False, before=before) == after


@pytest.mark.parametrize(("before", "after"), [(None, None), (ELSEWHERE, GONE), (GONE, GONE)])
def test_the_condition_of_a_departed_node(
    before: ConditionUpdate | None, after: ConditionUpdate | None
) -> None:
    for duplicates in ((), None, ON_N2):
        assert unique(duplicates, departed=True, before=before) == after


def test_the_message_names_gpus_and_nodes() -> None:
    found = unique(
        (
            Duplicate("GPU-1", ("n2",), more=False),
            Duplicate("GPU-2", ("n2", "n3", "n4"), more=True),
            Duplicate("GPU-3", ("n2",), more=False),
        ),
        departed=False,
        before=None,
    )
    assert found is not None
    assert found.message == (
        "nvidia-smi lists GPU-1, GPU-3 on n2, too;"
        " nvidia-smi lists GPU-2 on n2, n3, n4 and other nodes, too"
    )


def test_a_message_fits_into_the_condition() -> None:
    many = tuple(Duplicate(f"GPU-{n}" + "u" * 100, ("n2",), more=False) for n in range(64))
    found = unique(many, departed=False, before=None)
    assert found is not None
    assert len(found.message) <= MAX_CONDITION_MESSAGE
    assert unique(many, departed=False, before=found) == found


def said(node: ReadNode) -> ConditionUpdate | None:
    return shown(node.status.conditions, ConditionType.UNIQUE)


def test_every_decision_brings_the_condition_up_to_date() -> None:
    node = known(A, B)
    assert said(node) is None
    node.context = replace(node.context, duplicates=ON_N2)
    node.fail()
    assert said(node) == ELSEWHERE
    node.context = replace(node.context, duplicates=None)
    node.read(A, B)
    assert said(node) == ELSEWHERE
    node.context = replace(node.context, duplicates=())
    change = plan.reconsidered(node.status, now=node.now, context=node.context)
    assert change.entries == ()
    node.status = change.status
    assert said(node) == UNIQUE
    node.depart()
    assert said(node) == GONE
