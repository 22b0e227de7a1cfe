"""Identity facts that nvidia-smi does not report for a moment stay as last read."""

from __future__ import annotations

import pytest

from gpuid_operator.api.inventory import ConditionStatus, ConditionType
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.labels import PRESENT, lookup_labels
from tests.support.read_node import LOST, P1, A, B, ReadNode, but, known, types

UNREAD = "nvidia-smi did not report known facts, which stay as last read: "


def ready(node: ReadNode) -> tuple[str, str]:
    """Reason and message of the condition Ready, which is True."""
    condition = find(node.status.conditions, ConditionType.READY)
    assert condition is not None
    assert condition.status is ConditionStatus.TRUE
    return condition.reason, condition.message


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("uuid", "UUID"),
        ("serial", "serial"),
        ("vbios", "VBIOS version"),
        ("board_part_number", "board part number"),
        ("gpu_part_number", "GPU part number"),
        ("chassis_serial", "chassis serial"),
    ],
)
@pytest.mark.parametrize("driver", ["570.1", "575.2"])
def test_a_known_fact_that_is_not_read_stays(fact: str, words: str, driver: str) -> None:
    node = known(A, B)
    entries = node.read(but(A, **{fact: None}), B, driver=driver)
    assert types(entries) == (["DriverChanged"] if driver != "570.1" else [])
    assert (node.status.gpus or [])[0] == A
    assert set(lookup_labels(node.status).values()) == {PRESENT}
    assert ready(node) == ("ReadOK", f"{UNREAD}{words} of GPU-a")


def test_the_condition_names_unread_facts_as_long_as_they_are_unread() -> None:
    node = known(A, B)
    partial = but(A, serial=None, vbios=None), but(B, serial=None)
    node.read(*partial)
    assert ready(node)[1] == f"{UNREAD}serial of GPU-a, GPU-b; VBIOS version of GPU-a"
    before = node.status.conditions
    assert node.read(*partial) == []
    assert node.status.conditions == before
    assert node.read(A, B) == []
    assert ready(node) == ("ReadOK", "")


def test_another_value_replaces_the_known_one() -> None:
    node = known(A)
    node.read(but(A, serial=None))
    (entry,) = node.read(but(A, serial="9"))
    assert (entry.type, entry.from_, entry.to) == ("GPUChanged", A.serial, "9")
    assert entry.message == f"serial changed from {A.serial} to 9"


def test_a_fact_that_was_never_known_is_told_when_it_is_read() -> None:
    node = known(but(A, serial=None))
    assert ready(node) == ("ReadOK", "")
    (entry,) = node.read(A)
    assert (entry.type, entry.from_, entry.to) == ("GPUChanged", None, A.serial)


def test_a_sighting_has_the_known_serial() -> None:
    node = known(A)
    node.read(but(A, serial=None, chassis_serial=None), container="c2")
    assert node.sighted() == [("1821", A.serial)]


def test_a_lost_gpu_is_reported_by_the_condition_healthy_alone() -> None:
    node = known(A)
    node.read(but(A, state=LOST, pci_address=P1, serial=None))
    assert (node.status.gpus or [])[0].serial == A.serial
    assert ready(node) == ("ReadOK", "")
