"""What a node should have: the condition AsExpected, and what history says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    InventorySpec,
)
from gpuid_operator.api.policy import Expectation, Policy, PolicySpec
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, ConditionUpdate, shown
from gpuid_operator.plan.expectation import Hardware, as_expected
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.policy import resolve_policy
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import LOST, A, B, ReadNode, but, known, types

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
H100, H200 = "NVIDIA H100", "NVIDIA H200"
NODE = Hardware(gpus=8, products=(H100,), driver="570.1")
MET = ConditionUpdate(TRUE, "AsExpected")
FAILED = ConditionUpdate(FALSE, "OtherDriver", "as said before")


def judged(
    hardware: Hardware | None = NODE,
    *,
    departed: bool = False,
    before: ConditionUpdate | None = None,
    **expect: Any,
) -> ConditionUpdate | None:
    return as_expected(Expectation(**expect), hardware, departed=departed, before=before)


@pytest.mark.parametrize(
    ("expect", "reason", "message"),
    [
        ({"gpus": 8}, "AsExpected", ""),
        ({"gpus": 8, "products": [H200, H100], "drivers": ["570.1"]}, "AsExpected", ""),
        ({"gpus": 9}, "TooFewGPUs", "1 of 9 expected GPUs is missing: the node has 8"),
        ({"gpus": 10}, "TooFewGPUs", "2 of 10 expected GPUs are missing: the node has 8"),
        ({"gpus": 7}, "TooManyGPUs", "the node has 8 GPUs; expected: 7"),
        ({"gpus": 0}, "TooManyGPUs", "the node has 8 GPUs; expected: 0"),
        (
            {"products": [H200, "NVIDIA B200"]},
            "OtherProduct",
            "the node has GPUs of product NVIDIA H100; expected: NVIDIA H200 or NVIDIA B200",
        ),
        (
            {"drivers": ["580.2"]},
            "OtherDriver",
            "the node has driver 570.1; expected: 580.2",
        ),
        (
            {"gpus": 9, "products": [H200], "drivers": ["580.2"]},
            "TooFewGPUs",
            "1 of 9 expected GPUs is missing: the node has 8; the node has GPUs of product NVIDIA"
            " H100; expected: NVIDIA H200; the node has driver 570.1; expected: 580.2",
        ),
        (
            {"products": [H200], "drivers": ["580.2"]},
            "OtherProduct",
            "the node has GPUs of product NVIDIA H100; expected: NVIDIA H200; the node has driver"
            " 570.1; expected: 580.2",
        ),
    ],
)
def test_facts_that_are_there(expect: dict[str, Any], reason: str, message: str) -> None:
    status = TRUE if reason == "AsExpected" else FALSE
    assert judged(**expect) == ConditionUpdate(status, reason, message)


def test_each_gpu_counts_for_products() -> None:
    mixed = replace(NODE, products=("NVIDIA A100", H100, H200))
    found = judged(mixed, products=[H100])
    assert found is not None
    assert "of product NVIDIA A100, NVIDIA H200;" in found.message


@pytest.mark.parametrize("before", [None, MET, FAILED])
def test_without_an_expectation_there_is_no_condition(before: ConditionUpdate | None) -> None:
    assert judged(before=before) is None
    assert as_expected(None, NODE, departed=False, before=before) is None


def test_before_the_first_read_it_is_unknown() -> None:
    assert judged(None, gpus=8) == ConditionUpdate(UNKNOWN, "NotRead", "no successful read yet")


def test_a_departed_node_is_unknown_if_it_was_judged_before() -> None:
    gone = ConditionUpdate(UNKNOWN, "NodeDeparted", "the node is gone")
    assert judged(departed=True, before=FAILED, gpus=8) == gone
    assert judged(departed=True, before=gone, gpus=8) == gone
    assert judged(departed=True, gpus=8) is None


@pytest.mark.parametrize(
    ("hardware", "expect", "words"),
    [
        (replace(NODE, driver=None), {"drivers": ["570.1"]}, "the driver version"),
        (replace(NODE, products=(None, H100)), {"products": [H100]}, "the product of every GPU"),
        (
            replace(NODE, products=(None,), driver=None),
            {"products": [H100], "drivers": ["570.1"]},
            "the product of every GPU and the driver version",
        ),
    ],
)
def test_what_nvidia_smi_does_not_report_changes_nothing(
    hardware: Hardware, expect: dict[str, Any], words: str
) -> None:
    said = ConditionUpdate(UNKNOWN, "NotRead", f"nvidia-smi did not report {words}")
    assert judged(hardware, **expect) == said
    assert judged(hardware, before=said, **expect) == said
    for before in (MET, FAILED):
        assert judged(hardware, before=before, **expect) == before
    # It hides no other failure.
    failed = judged(hardware, before=MET, gpus=9, **expect)
    assert failed is not None
    assert failed.reason == "TooFewGPUs"


def test_facts_that_are_not_expected_need_not_be_reported() -> None:
    assert judged(Hardware(8, (None,), None), gpus=8) == MET


def test_a_message_fits_into_the_condition() -> None:
    found = judged(products=["x" * 128] * 16, drivers=["y" * 128] * 16)
    assert found is not None
    assert found.message.endswith("…")
    assert len(found.message) <= MAX_CONDITION_MESSAGE
    again = judged(before=found, products=["x" * 128] * 16, drivers=["y" * 128] * 16)
    assert again == found


def expecting(node: ReadNode, **expect: Any) -> list[HistoryEntry]:
    """The entries of a change of the policy, without a read."""
    node.context = replace(node.context, expect=Expectation(**expect) if expect else None)
    change = plan.reconsidered(node.status, now=node.now, context=node.context)
    again = plan.reconsidered(change.status, now=node.now, context=node.context)
    assert (again.entries, again.status) == ((), change.status)
    node.status = change.status
    return list(change.entries)


def said(node: ReadNode) -> tuple[str, str] | None:
    found = shown(node.status.conditions, ConditionType.AS_EXPECTED)
    return (found.status.value, found.reason) if found else None


def changes(entries: list[HistoryEntry]) -> list[tuple[str, str | None, str | None]]:
    return [(entry.type.value, entry.from_, entry.to) for entry in entries]


def test_a_first_result_is_history_only_if_it_failed() -> None:
    node = ReadNode(context=StatusContext(expect=Expectation(gpus=2)))
    assert types(node.read(A, B)) == ["GPUAdded", "GPUAdded"]
    assert said(node) == ("True", "AsExpected")
    node = ReadNode(context=StatusContext(expect=Expectation(gpus=3)))
    entries = node.read(A, B)
    assert types(entries) == ["GPUAdded", "GPUAdded", "ExpectationFailed"]
    (failed,) = entries[2:]
    assert (failed.from_, failed.to) == (None, "TooFewGPUs")
    assert failed.message == "1 of 3 expected GPUs is missing: the node has 2"
    assert (failed.uuid, failed.serial, failed.pci_address) == (None, None, None)
    assert (failed.machine, failed.source) == ("i-1", "gpu-operator/plugin-x")


def test_a_node_that_cannot_be_read_is_not_judged() -> None:
    node = ReadNode(context=StatusContext(expect=Expectation(gpus=2)))
    node.fail()
    assert said(node) == ("Unknown", "NotRead")
    assert node.status.history == []
    assert changes(node.read(A)[1:]) == [("ExpectationFailed", "NotRead", "TooFewGPUs")]
    node.fail()
    assert said(node) == ("False", "TooFewGPUs")


def test_each_change_of_the_reason_is_one_entry() -> None:
    node = known(A, B)
    assert expecting(node, gpus=2, drivers=["570.1"]) == []
    assert changes(node.read(A, B, driver="580.2")[1:]) == [
        ("ExpectationFailed", "AsExpected", "OtherDriver")
    ]
    # Another message of the same reason is none.
    assert types(node.read(A, B, driver="590.3")) == ["DriverChanged"]
    found = shown(node.status.conditions, ConditionType.AS_EXPECTED)
    assert found is not None
    assert "driver 590.3" in found.message
    node.read(A, driver="590.3")
    removal = node.read(A, driver="590.3", after=10)
    assert changes(removal[1:]) == [("ExpectationFailed", "OtherDriver", "TooFewGPUs")]
    assert changes(node.read(A, B, driver="570.1")[2:]) == [
        ("ExpectationMet", "TooFewGPUs", "AsExpected")
    ]
    assert node.change.entries[-1].message == "the node is as expected"


def test_a_gpu_whose_removal_awaits_a_second_read_counts() -> None:
    node = known(A, B)
    expecting(node, gpus=2)
    assert node.read(A) == []
    assert said(node) == ("True", "AsExpected")


def test_a_lost_gpu_counts() -> None:
    node = known(A, B)
    expecting(node, gpus=2)
    assert types(node.read(A, but(B, state=LOST))) == ["GPULost"]
    assert said(node) == ("True", "AsExpected")


def test_a_change_of_the_policy_is_judged_on_the_facts() -> None:
    node = known(A, B)
    assert changes(expecting(node, gpus=8)) == [("ExpectationFailed", None, "TooFewGPUs")]
    assert changes(expecting(node, gpus=1)) == [("ExpectationFailed", "TooFewGPUs", "TooManyGPUs")]
    assert changes(expecting(node, gpus=2)) == [("ExpectationMet", "TooManyGPUs", "AsExpected")]
    assert expecting(node) == []
    assert said(node) is None


def test_an_expectation_that_is_withdrawn_while_it_fails_closes_the_case() -> None:
    node = known(A, B)
    expecting(node, gpus=8)
    (entry,) = expecting(node)
    assert changes([entry]) == [("ExpectationMet", "TooFewGPUs", None)]
    assert entry.message == "the policy expects nothing any more"
    assert said(node) is None


def test_a_departed_node_is_judged_again_when_it_returns() -> None:
    node = known(A, B)
    expecting(node, gpus=8)
    assert types(node.depart()) == ["GPURemoved", "GPURemoved", "NodeDeparted"]
    assert said(node) == ("Unknown", "NodeDeparted")
    assert expecting(node, gpus=2) == []
    returned = node.read(A, B)
    assert types(returned) == ["NodeReturned", "GPUAdded", "GPUAdded", "ExpectationMet"]
    assert changes(returned[3:]) == [("ExpectationMet", "NodeDeparted", "AsExpected")]
    node.depart()
    assert types(node.read(A))[-1] == "ExpectationFailed"
    node.depart()
    assert expecting(node) == []
    assert said(node) is None


def test_other_decisions_judge_too() -> None:
    """A delivery or a check that writes first under another policy leaves nothing to decide."""
    node = known(A, B)
    node.context = replace(node.context, expect=Expectation(gpus=8))
    change = plan.after_failure(
        node.status,
        reason=FailureReason.EXEC_FAILED,
        message="no",
        node=node.node,
        now=node.now,
        context=node.context,
    )
    assert changes(list(change.entries)) == [("ExpectationFailed", None, "TooFewGPUs")]
    again = plan.reconsidered(change.status, now=node.now, context=node.context)
    assert again.entries == ()


def test_the_policy_s_expectation_is_in_force() -> None:
    spec = {"expect": {"gpus": 8, "products": [H100], "drivers": ["570.1"]}}
    fleet = Policy.from_object({"metadata": {"name": "fleet"}, "spec": spec})
    effective = resolve_policy(fleet, builtin=PolicySpec(), spec=InventorySpec())
    context = effective.status_context(1)
    assert context.expect == Expectation(gpus=8, products=[H100], drivers=["570.1"])
    builtin = resolve_policy(None, builtin=PolicySpec(), spec=InventorySpec())
    assert builtin.status_context(1).expect is None


def test_hardware_is_what_the_gpus_have_in_common() -> None:
    other = GPU(uuid="GPU-c", product=H200)
    nameless = GPU(pci_address="00000000:05:00.0")
    assert Hardware.of([A, B, other, nameless], "570.1") == Hardware(4, (None, H100, H200), "570.1")
    assert Hardware.of([], None) == Hardware(0, (), None)
    assert Hardware.of(None, "570.1") is None
