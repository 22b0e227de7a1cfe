"""History entries of GPUs that are lost, and of their health."""

from __future__ import annotations

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    GPUHealth,
    GPUState,
    HistoryType,
)
from gpuid_operator.plan.conditions import find
from tests.support.node_reads import (
    LOST,
    P1,
    P2,
    UNKNOWN,
    A,
    B,
    Node,
    but,
    known,
    types,
)


class TestLost:
    def test_is_not_removed(self) -> None:
        node = known(A, B)
        (entry,) = node.read(A, GPU(pci_address=P2, index=1, state=LOST))
        assert (entry.type, entry.uuid, entry.serial) == (
            HistoryType.GPU_LOST,
            "GPU-b",
            "1650000000002",
        )
        assert node.status.gpu_count == 2
        lost = (node.status.gpus or [])[1]
        assert (lost.state, lost.uuid, lost.product) == (LOST, "GPU-b", "NVIDIA H100")
        assert node.read(A, GPU(pci_address=P2, index=1, state=LOST)) == []

    def test_with_an_uuid_that_can_still_be_read(self) -> None:
        assert types(known(A).read(but(A, state=LOST))) == ["GPULost"]

    def test_and_back(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        (entry,) = node.read(A)
        assert (entry.type, entry.from_, entry.to) == (HistoryType.GPU_RECOVERED, "Lost", "OK")
        assert (node.status.gpus or [])[0] == A

    def test_and_back_with_errors(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        hurt = but(A, health=GPUHealth(recovery_action="None", ecc_uncorrected=3))
        recovered, health = node.read(hurt)
        assert recovered.type is HistoryType.GPU_RECOVERED
        assert (health.from_, health.to) == ("eccUncorrected=0", "eccUncorrected=3")

    def test_is_not_back_because_its_body_cannot_be_read(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        assert node.read(GPU(pci_address=P1, state=UNKNOWN)) == []
        assert (node.status.gpus or [])[0].state is LOST
        assert types(node.read(A)) == ["GPURecovered"]

    def test_when_first_seen_is_added_and_told(self) -> None:
        assert types(Node().read(GPU(pci_address=P1, state=LOST))) == ["GPUAdded", "GPULost"]

    def test_is_named_once_it_can_be_read(self) -> None:
        node = Node()
        node.read(GPU(pci_address=P1, state=LOST))
        entries = node.read(A)
        assert types(entries) == ["GPUAdded", "GPURecovered"]
        assert entries[0].uuid == "GPU-a"

    def test_and_replaced_is_removed(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        entries = node.read(but(B, pci_address=P1))
        assert types(entries) == ["GPURemoved", "GPUAdded"]

    def test_is_forgotten_when_it_is_gone_from_the_list(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        node.read()
        assert types(node.read(after=10)) == ["GPURemoved"]


class TestHealth:
    @pytest.mark.parametrize(
        ("health", "told"),
        [
            ({"recovery_action": "Reset", "ecc_uncorrected": 0}, "recoveryAction=Reset"),
            ({"recovery_action": "None", "ecc_uncorrected": 5}, "eccUncorrected=5"),
            (
                {"recovery_action": "None", "ecc_uncorrected": 0, "remapped_rows_failed": True},
                "remappedRowsFailed=true",
            ),
        ],
    )
    def test_change_is_told(self, health: dict[str, object], told: str) -> None:
        (entry,) = known(A).read(but(A, health=GPUHealth.model_validate(health)))
        assert (entry.type, entry.to) == (HistoryType.HEALTH_CHANGED, told)

    def test_need_of_a_reset(self) -> None:
        node = known(A)
        (entry,) = node.read(but(A, state=GPUState.RESET_REQUIRED))
        assert (entry.from_, entry.to) == ("state=OK", "state=ResetRequired")
        healthy = find(node.status.conditions, ConditionType.HEALTHY)
        assert healthy is not None
        assert healthy.status is ConditionStatus.FALSE

    def test_facts_that_an_unreadable_body_does_not_give_stay(self) -> None:
        node = known(A)
        partial = GPU(pci_address=P1, state=UNKNOWN, health=GPUHealth(recovery_action="None"))
        (entry,) = node.read(partial)
        assert (entry.from_, entry.to) == ("state=OK", "state=Unknown")
        assert (node.status.gpus or [])[0] == but(A, state=UNKNOWN)
