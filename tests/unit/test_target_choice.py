"""In which target a node is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.plan.failure import MAX_MESSAGE, FailureReason
from gpuid_operator.plan.target_choice import Candidate, choose, no_program_error


def one(number: int, **facts: Any) -> Candidate[str]:
    return Candidate(pod=f"pod-{number}", number=number, **({"ready": True} | facts))


READ = {"was_read": True, "older": True}
LACKS = {"lacks_program": True}
UNREADY = {"ready": False}
OLDER = {"older": True}


@pytest.mark.parametrize(
    ("candidates", "situation", "number"),
    [
        # A node that was never read
        ([], {}, None),
        ([one(0), one(1)], {}, 0),
        ([one(0, **UNREADY), one(1)], {}, 1),
        ([one(0, **UNREADY), one(1, **UNREADY)], {}, 0),
        ([one(0, **LACKS), one(1)], {}, 1),
        ([one(0, **LACKS), one(1, **UNREADY)], {}, 1),
        ([one(0, **LACKS), one(1, **LACKS)], {}, 0),
        # A target that works
        ([one(0, **LACKS), one(1, **READ), one(2)], {"kept": 1}, 1),
        ([one(0, **UNREADY), one(1, **READ)], {"kept": 1}, 1),
        ([one(1, **READ, **UNREADY), one(2)], {"kept": 1}, 1),
        ([one(0), one(1, **READ)], {"kept": 1}, 0),
        ([one(0, **OLDER), one(1, **READ)], {"kept": 1}, 0),
        # Its container is gone, or new
        ([one(1, **UNREADY), one(2)], {"kept": 1, "waiting": True}, 1),
        ([one(1), one(2)], {"kept": 1, "waiting": True}, 1),
        ([one(2)], {"kept": 1, "waiting": True}, None),
        ([one(0), one(2)], {"kept": 1, "waiting": True}, 0),
        ([one(0, **UNREADY), one(2)], {"kept": 1, "waiting": True}, None),
        ([one(0, **LACKS), one(2)], {"kept": 1, "waiting": True}, None),
        ([one(1, **LACKS)], {"kept": 1, "waiting": True}, 1),
        ([one(1, **LACKS), one(2)], {"kept": 1, "waiting": True}, 2),
        ([one(0, **LACKS), one(1, **LACKS)], {"kept": 1, "waiting": True}, 0),
        ([one(2)], {"kept": 1}, 2),
        ([one(1, **UNREADY), one(2)], {"kept": 1}, 2),
        ([], {"kept": 1, "waiting": True}, None),
        # After a restart of the operator
        ([one(0, **OLDER), one(1, **READ)], {"restarted": True}, 1),
        ([one(0), one(1, **READ)], {"restarted": True}, 0),
        ([one(0, **OLDER), one(1, **OLDER)], {"restarted": True}, 0),
        ([one(0, **OLDER), one(1)], {"restarted": True}, 0),
        ([one(0, **OLDER), one(1, **READ, **LACKS)], {"restarted": True}, 0),
    ],
)
def test_the_table(
    candidates: list[Candidate[str]], situation: dict[str, Any], number: int | None
) -> None:
    chosen = choose(candidates, **situation)
    assert (chosen.number if chosen else None) == number


@given(
    st.lists(st.tuples(*[st.booleans()] * 4), max_size=4),
    st.none() | st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)
def test_a_node_is_never_stuck(
    facts: list[tuple[bool, bool, bool, bool]], kept: int | None, waiting: bool, restarted: bool
) -> None:
    """Where a container can be read, it is, once there is nothing to wait for."""
    names = ("ready", "was_read", "lacks_program", "older")
    candidates = [
        one(number, **dict(zip(names, row, strict=True))) for number, row in enumerate(facts)
    ]
    chosen = choose(candidates, kept=kept, waiting=waiting, restarted=restarted)
    assert chosen is not None or waiting or not candidates
    can_be_read = [one for one in candidates if not one.lacks_program]
    if chosen is not None and any(one.ready or one.was_read for one in can_be_read):
        assert chosen in can_be_read
        assert waiting or chosen.ready or chosen.was_read


def test_a_single_target_without_the_program_is_all_that_is_named() -> None:
    assert no_program_error(["preset gke: it is not there"]).message == (
        "preset gke: it is not there"
    )


def test_several_are_all_named_within_the_bound_of_a_message() -> None:
    error = no_program_error([f"pod-{number}: {'x' * 2000}" for number in range(21)])
    assert error.reason is FailureReason.NVIDIA_SMI_NOT_FOUND
    assert error.message.startswith("none of 21 targets on this node has nvidia-smi: pod-0: xxx")
    assert len(error.message) <= MAX_MESSAGE
    few = no_program_error(["a: b", "c: d"])
    assert few.message == "none of 2 targets on this node has nvidia-smi: a: b; c: d"
