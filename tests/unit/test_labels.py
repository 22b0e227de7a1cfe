"""Labels: look-ups on inventories, and those on Nodes that users of gpuid know."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import (
    GPU,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.plan.labels import (
    MAX_PAST,
    label_text,
    lookup_changes,
    lookup_labels,
    node_label_changes,
    node_labels,
)
from tests.support.strategies import TEXT

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
"""What Kubernetes allows as a label's value, and as the name in its key."""


def short(labels: dict[str, str]) -> dict[str, str]:
    assert all(name.startswith("gpuid.github.com/") for name in labels)
    return {name.removeprefix("gpuid.github.com/"): value for name, value in labels.items()}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, ""),
        ("", ""),
        ("1652823054567", "1652823054567"),
        ("GPU-25e04bdf-6a27", "GPU-25e04bdf-6a27"),
        ("a b/c:d", "a-b-c-d"),
        ("[N/A]", "N-A"),
        ("-._x_.-", "x"),
        ("///", ""),
        ("é1é", "1"),
        ("1" * 70, "1" * 63),
        ("1" * 62 + "-" + "2" * 7, "1" * 62),
        ("-" * 5 + "1" * 70, "1" * 63),
    ],
)
def test_sanitising(raw: str | None, text: str) -> None:
    assert label_text(raw) == text


@given(st.text(TEXT, max_size=100))
def test_any_text_becomes_what_kubernetes_allows(raw: str) -> None:
    assert VALUE.fullmatch(label_text(raw))
    for name, value in node_labels([(raw, raw), ("other", raw)]).items():
        assert VALUE.fullmatch(value)
        assert value
        assert len(name.partition("/")[2]) <= 63


class TestOnNodes:
    """The keys and values of gpuid, by chassis."""

    @pytest.mark.parametrize(
        ("pairs", "labels"),
        [
            ([], {}),
            ([(None, "2"), (None, "1")], {"gpu-0": "1", "gpu-1": "2"}),
            (
                [("C1", "2"), ("C1", "1")],
                {"chassis": "C1", "chassis-count": "1", "gpu-0": "1", "gpu-1": "2"},
            ),
            (
                [("C2", "3"), ("C1", "2"), ("C1", "1"), ("C2", "0")],
                {
                    "chassis-count": "2",
                    "chassis-0": "C1",
                    "chassis-0-gpu-0": "1",
                    "chassis-0-gpu-1": "2",
                    "chassis-1": "C2",
                    "chassis-1-gpu-0": "0",
                    "chassis-1-gpu-1": "3",
                },
            ),
            # Twins of one board share a serial.
            ([("C1", "1"), ("C1", "1")], {"chassis": "C1", "chassis-count": "1", "gpu-0": "1"}),
            # No chassis label for one that is not known; its GPUs get gpu-J.
            (
                [("N/A", "9"), ("1821", "1"), (None, "1")],
                {
                    "chassis-count": "1",
                    "chassis-0": "1821",
                    "chassis-0-gpu-0": "1",
                    "gpu-0": "1",
                    "gpu-1": "9",
                },
            ),
            # It has its place in the order, as `N/A`.
            (
                [(None, "9"), ("S1", "2"), ("1821", "1")],
                {
                    "chassis-count": "2",
                    "chassis-0": "1821",
                    "chassis-0-gpu-0": "1",
                    "gpu-0": "9",
                    "chassis-2": "S1",
                    "chassis-2-gpu-0": "2",
                },
            ),
            (
                [(None, None), (None, "S1"), (None, "1")],
                {"gpu-0": "1", "gpu-1": "na", "gpu-2": "S1"},
            ),
            (
                [("N/A", "9"), ("C1", "1"), ("C2", "2"), ("", "8")],
                {
                    "chassis-count": "2",
                    "chassis-0": "C1",
                    "chassis-0-gpu-0": "1",
                    "chassis-1": "C2",
                    "chassis-1-gpu-0": "2",
                    "gpu-0": "8",
                    "gpu-1": "9",
                },
            ),
            # What has no value is `na`.
            (
                [("C1", None), ("C1", "N/A"), ("C1", "")],
                {"chassis": "C1", "chassis-count": "1", "gpu-0": "na"},
            ),
            ([("[N/A]", "a/b")], {"gpu-0": "a-b"}),
        ],
    )
    def test_keys_and_values(
        self, pairs: list[tuple[str | None, str | None]], labels: dict[str, str]
    ) -> None:
        assert short(node_labels(pairs)) == labels

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([None, "N/A", "C1", "C2", "C3"]),
                st.none() | st.integers(0, 9).map(str),
            )
        ).flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs)))
    )
    def test_the_order_of_gpus_does_not_matter(
        self, lists: tuple[list[tuple[str | None, str | None]], ...]
    ) -> None:
        assert node_labels(lists[0]) == node_labels(lists[1])

    def test_stale_ones_go_no_matter_who_wrote_them(self) -> None:
        current = {
            "gpuid.github.com/chassis": "C1",
            "gpuid.github.com/chassis-count": "1",
            "gpuid.github.com/gpu-0": "1",
            "gpuid.github.com/gpu-1": "2",
            "gpuid.github.com/anything": "x",
            "serial.gpuid.github.com/1": "present",
            "notgpuid.github.com/gpu-7": "x",
            "nvidia.com/gpu.count": "8",
        }
        changes = node_label_changes(current, [("C1", "1"), ("C1", "3")], enabled=True)
        assert changes == {"gpuid.github.com/gpu-1": "3", "gpuid.github.com/anything": None}

    def test_nothing_to_do_is_nothing(self) -> None:
        pairs = [("C1", "1")]
        assert node_label_changes(node_labels(pairs), pairs, enabled=True) == {}

    def test_turned_off_removes_ours_only(self) -> None:
        ours = node_labels([("C1", "1"), ("C2", "2"), (None, "3")]) | node_labels([("C1", "1")])
        others = {"gpuid.github.com/owner": "team", "nvidia.com/gpu.count": "8"}
        changes = node_label_changes(ours | others, [("C1", "1")], enabled=False)
        assert changes == dict.fromkeys(ours)


def entry(sequence: int, kind: HistoryType = HistoryType.GPU_ADDED, **facts: str) -> HistoryEntry:
    return HistoryEntry.model_validate({"sequence": sequence, "time": NOW, "type": kind} | facts)


class TestLookUps:
    gpu = GPU(uuid="GPU-a", serial="1", chassis_serial="C1")

    def test_present_and_past(self) -> None:
        status = InventoryStatus(
            state=InventoryState.PRESENT,
            gpus=[self.gpu],
            history=[
                entry(1, uuid="GPU-b", serial="2", chassis="C1"),
                entry(2, HistoryType.GPU_REMOVED, uuid="GPU-b", serial="2", chassis="C1"),
                entry(3, uuid="GPU-a", serial="1", chassis="C1"),
            ],
        )
        assert lookup_labels(status) == {
            "uuid.gpuid.github.com/GPU-a": "present",
            "serial.gpuid.github.com/1": "present",
            "chassis.gpuid.github.com/C1": "present",
            "uuid.gpuid.github.com/GPU-b": "past",
            "serial.gpuid.github.com/2": "past",
        }

    def test_of_a_departed_node_are_past(self) -> None:
        status = InventoryStatus(state=InventoryState.DEPARTED, gpus=[self.gpu])
        assert set(lookup_labels(status).values()) == {"past"}
        assert len(lookup_labels(status)) == 3

    def test_there_is_none_for_a_missing_value(self) -> None:
        status = InventoryStatus(gpus=[GPU(uuid="GPU-a", serial="-/-")])
        assert list(lookup_labels(status)) == ["uuid.gpuid.github.com/GPU-a"]

    def test_a_former_serial_is_past(self) -> None:
        change = {"uuid": "GPU-a", "serial": "1", "from": "0", "to": "1"}
        status = InventoryStatus(
            gpus=[self.gpu], history=[entry(1, HistoryType.GPU_CHANGED, **change)]
        )
        assert lookup_labels(status)["serial.gpuid.github.com/0"] == "past"

    def test_another_former_fact_is_no_serial(self) -> None:
        change = {"uuid": "GPU-a", "from": "96.00"}
        status = InventoryStatus(
            gpus=[GPU(uuid="GPU-a")], history=[entry(1, HistoryType.GPU_CHANGED, **change)]
        )
        assert list(lookup_labels(status)) == ["uuid.gpuid.github.com/GPU-a"]

    def test_a_hundred_past_ones_the_newest(self) -> None:
        history = [entry(n, uuid=f"GPU-{n}", serial=str(n)) for n in range(1, 201)]
        labels = lookup_labels(InventoryStatus(gpus=[self.gpu], history=history))
        past = [name for name, value in labels.items() if value == "past"]
        assert len(past) == MAX_PAST == 100
        assert "uuid.gpuid.github.com/GPU-200" in past
        assert "uuid.gpuid.github.com/GPU-150" not in past
        assert len(labels) == 103

    def test_changes_touch_our_prefixes_only(self) -> None:
        current = {
            "serial.gpuid.github.com/1": "present",
            "serial.gpuid.github.com/0": "past",
            "uuid.gpuid.github.com/GPU-a": "past",
            "team": "x",
            "gpuid.github.com/mine": "x",
        }
        wanted = {"serial.gpuid.github.com/1": "present", "uuid.gpuid.github.com/GPU-a": "present"}
        assert lookup_changes(current, wanted) == {
            "serial.gpuid.github.com/0": None,
            "uuid.gpuid.github.com/GPU-a": "present",
        }
        assert lookup_changes(wanted, wanted) == {}
