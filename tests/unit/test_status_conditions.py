"""The status after failed reads and under suspension."""

from __future__ import annotations

from datetime import timedelta

from gpuid_operator.api.inventory import (
    ConditionStatus,
    ConditionType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.plan import status
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import (
    NODE,
    NOW,
    A,
    ReadNode,
    known,
    source,
    types,
)


class TestFailure:
    def test_keeps_the_facts(self) -> None:
        node = known(A)
        before = node.status
        node.fail()
        kept = {"gpus", "gpu_count", "serials", "source", "last_read_time", "history", "node"}
        assert all(getattr(node.status, name) == getattr(before, name) for name in kept)
        ready = find(node.status.conditions, ConditionType.READY)
        assert ready is not None
        assert (ready.status, ready.reason, ready.message) == (
            ConditionStatus.FALSE,
            "ExecFailed",
            "no",
        )
        assert types(node.read(A)) == []

    def test_before_the_first_good_read_knows_no_gpus(self) -> None:
        node = ReadNode()
        node.fail()
        assert (node.status.gpus, node.status.gpu_count) == (None, None)
        assert node.status.state is InventoryState.PRESENT
        healthy = find(node.status.conditions, ConditionType.HEALTHY)
        assert healthy is not None
        assert healthy.status is ConditionStatus.UNKNOWN

    def test_the_same_again_changes_nothing(self) -> None:
        node = known(A)
        node.fail()
        before = node.status
        node.now += timedelta(minutes=5)
        node.fail()
        assert node.status == before


class TestSuspension:
    def ready(self, node: ReadNode) -> tuple[str, str]:
        condition = find(node.status.conditions, ConditionType.READY)
        assert condition is not None
        return condition.status.value, condition.reason

    def suspend(self, node: ReadNode, suspended: bool) -> None:
        node.context = StatusContext(generation=1, suspended=suspended)
        node.status = status.reconsidered(node.status, now=node.now, context=node.context).status

    def test_keeps_the_status_of_ready(self) -> None:
        node = known(A)
        self.suspend(node, True)
        assert self.ready(node) == ("True", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("True", "ReadOK")

    def test_after_a_failure(self) -> None:
        node = known(A)
        node.fail()
        self.suspend(node, True)
        assert self.ready(node) == ("False", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("False", "Resumed")

    def test_of_a_node_that_was_never_read(self) -> None:
        node = ReadNode()
        self.suspend(node, True)
        assert self.ready(node) == ("Unknown", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("Unknown", "Resumed")

    def test_a_failure_meanwhile_does_not_fight_it(self) -> None:
        node = known(A)
        self.suspend(node, True)
        before = node.status
        node.fail()
        assert node.status == before

    def test_does_not_concern_a_departed_node(self) -> None:
        node = known(A)
        node.depart()
        self.suspend(node, True)
        assert self.ready(node) == ("False", "NodeNotFound")


def test_a_token_that_is_too_long_is_kept_in_a_form_that_can_be_compared() -> None:
    token = "<now>" * 1000
    change = status.after_failure(
        InventoryStatus(),
        reason=FailureReason.TIMED_OUT,
        message="",
        node=None,
        now=NOW,
        context=StatusContext(),
        request=token,
    )
    handled = change.status.last_handled_request
    assert handled is not None
    assert len(handled) <= 1024
    assert handled == status.request_token(token) == status.request_token(handled)


def test_a_read_handles_its_request() -> None:
    change = status.after_read(
        InventoryStatus(),
        Reading(driver_version="570.1", cuda_version="12.8", gpus=(A,)),
        source=source(),
        node=NODE,
        now=NOW,
        context=StatusContext(),
        request="now",
    )
    assert change.status.last_handled_request == "now"
