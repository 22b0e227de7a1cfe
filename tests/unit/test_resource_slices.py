"""What ResourceSlices say about a node, and what its status shows of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import ConditionStatus, ConditionType, InventoryStatus
from gpuid_operator.api.values import encoded_size
from gpuid_operator.kube.resource_slices import slice_facts
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, find
from gpuid_operator.plan.resource_slices import (
    NOT_FROM_SLICES,
    NOTHING_PUBLISHED,
    FromSlices,
    PublishedGPUs,
    SliceFacts,
    differences,
    from_slices,
    published_gpus,
    with_difference,
)
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import NOW, A, B, ReadNode, known, types
from tests.support.resource_slices import PCI_PRODUCT, PRODUCT, gpu, gpus, mig, resource_slice, vfio


def facts(devices: list[dict[str, Any]], node: str = "n1", **how: Any) -> SliceFacts:
    found = slice_facts(resource_slice(node, devices, **how))
    assert found is not None
    return found


class TestFacts:
    """One slice, as the API server has it."""

    @pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
    def test_of_every_version(self, version: str) -> None:
        assert facts(gpus("GPU-b", "GPU-a"), generation=3, count=2, version=version) == SliceFacts(
            node="n1",
            pool="n1",
            generation=3,
            count=2,
            has_devices=True,
            uuids=("GPU-a", "GPU-b"),
            products=(PRODUCT,),
            drivers=("570.86.15",),
        )

    def test_a_gpu_in_mig_mode_is_the_parent_of_its_devices(self) -> None:
        devices = [mig("GPU-a", number=0), mig("GPU-a", number=1), gpu("GPU-b", index=1)]
        assert facts(devices).uuids == ("GPU-a", "GPU-b")

    def test_a_gpu_that_is_passed_through_is_not_compared(self) -> None:
        found = facts([vfio("0d9c")])
        assert (found.uuids, found.products, found.has_devices) == ((), (PCI_PRODUCT,), True)
        both = facts([vfio("0d9c"), gpu("GPU-a")])
        assert (both.uuids, both.products) == (("GPU-a",), (PRODUCT,))

    def test_a_name_with_the_domain_of_the_driver_is_the_same(self) -> None:
        device = gpu("GPU-a")
        attributes = {f"gpu.nvidia.com/{k}": v for k, v in device["attributes"].items()}
        assert facts([device | {"attributes": attributes}]).uuids == ("GPU-a",)

    @pytest.mark.parametrize(
        "body",
        [
            resource_slice("n1", gpus("GPU-a"), driver="compute-domain.nvidia.com"),
            resource_slice(None, gpus("GPU-a")),
            {"metadata": {"name": "empty"}},
        ],
    )
    def test_of_another_driver_or_of_no_single_node_there_are_none(
        self, body: dict[str, Any]
    ) -> None:
        assert slice_facts(body) is None

    def test_values_that_nothing_can_be_done_with_are_left_out(self) -> None:
        device = gpu("GPU a\n", product="NVIDIA\n\x1b[1mH100")
        device["attributes"]["driverVersion"] = {"int": 5}
        found = facts([device, {"name": "bare"}])
        assert (found.uuids, found.products, found.drivers) == ((), ("NVIDIA [1mH100",), ())


class TestPool:
    """The newest generation counts, and only when all its slices are there."""

    def test_a_pool_of_one_slice(self) -> None:
        assert published_gpus([facts(gpus("GPU-a"))]) == PublishedGPUs(
            True, ("GPU-a",), PRODUCT, "570.86.15"
        )

    @pytest.mark.parametrize(
        ("slices", "uuids"),
        [
            ([("GPU-a", 1, 2)], None),
            ([("GPU-a", 1, 2), ("GPU-b", 1, 2)], ("GPU-a", "GPU-b")),
            ([("GPU-a", 1, 1), ("GPU-b", 2, 1)], ("GPU-b",)),
            ([("GPU-a", 1, 1), ("GPU-b", 2, 2)], None),
            ([("GPU-a", 2, 2), ("GPU-b", 1, 1)], None),
            # The driver raises the count before it writes the further slice.
            ([("GPU-a", 2, 1), ("GPU-b", 2, 3)], None),
            # One slice too many is no slice too few.
            ([("GPU-a", 1, 1), ("GPU-b", 1, 1)], ("GPU-a", "GPU-b")),
        ],
    )
    def test_generations_and_counts(
        self, slices: list[tuple[str, int, int]], uuids: tuple[str, ...] | None
    ) -> None:
        found = published_gpus(
            [facts([gpu(uuid)], generation=at, count=count) for uuid, at, count in slices]
        )
        assert (found and found.uuids) == uuids

    def test_of_several_pools_each_has_to_be_complete(self) -> None:
        whole = facts(gpus("GPU-a"))
        assert published_gpus([whole, facts(gpus("GPU-b"), pool="other", count=2)]) is None
        both = published_gpus([whole, facts(gpus("GPU-b"), pool="other", generation=7)])
        assert both is not None
        assert both.uuids == ("GPU-a", "GPU-b")

    def test_several_products_are_named_in_order(self) -> None:
        devices = [gpu("GPU-a", product="NVIDIA L4"), gpu("GPU-b", product="NVIDIA A10")]
        found = published_gpus([facts(devices)])
        assert found is not None
        assert found.product == "NVIDIA A10, NVIDIA L4"

    def test_no_slices_and_no_devices_say_nothing(self) -> None:
        assert published_gpus([]) == NOTHING_PUBLISHED
        assert published_gpus([facts([])]) == NOTHING_PUBLISHED


AB = PublishedGPUs(True, ("GPU-a", "GPU-b"), PRODUCT, "570.86.15")
UNREAD = FromSlices(True, PRODUCT, "570.86.15")
SAID = FromSlices(difference="as said before")


@pytest.mark.parametrize(
    ("published", "uuids", "departed", "before", "expected"),
    [
        (AB, None, True, UNREAD, UNREAD),
        (AB, ["GPU-a"], True, SAID, NOT_FROM_SLICES),
        (None, None, False, UNREAD, UNREAD),
        (None, None, False, NOT_FROM_SLICES, NOT_FROM_SLICES),
        (NOTHING_PUBLISHED, None, False, UNREAD, NOT_FROM_SLICES),
        (AB, None, False, NOT_FROM_SLICES, UNREAD),
        (None, ["GPU-a"], False, SAID, SAID),
        (None, ["GPU-a"], False, UNREAD, NOT_FROM_SLICES),
        (NOTHING_PUBLISHED, ["GPU-a"], False, SAID, NOT_FROM_SLICES),
        (PublishedGPUs(True, (), PRODUCT), ["GPU-a"], False, SAID, NOT_FROM_SLICES),
        (AB, ["GPU-b", "GPU-a"], False, SAID, NOT_FROM_SLICES),
        (AB, [], False, SAID, FromSlices(difference=differences(AB.uuids, []))),
    ],
)
def test_what_a_status_shows(
    published: PublishedGPUs | None,
    uuids: list[str] | None,
    departed: bool,
    before: FromSlices,
    expected: FromSlices,
) -> None:
    assert from_slices(published, uuids, departed=departed, before=before) == expected


class TestDifference:
    """The UUIDs that only one side has, in the message of Ready."""

    BOTH = (
        "ResourceSlices of gpu.nvidia.com differ: they publish GPU-a, which nvidia-smi did not"
        " list; they do not publish GPU-c, which the inventory lists"
    )

    def test_names_both_sides(self) -> None:
        assert differences(["GPU-a", "GPU-b"], ["GPU-c", "GPU-b"]) == self.BOTH

    def test_names_five_uuids_and_counts_the_rest(self) -> None:
        said = differences([f"GPU-{n}" for n in range(7)], [])
        assert "they publish GPU-0, GPU-1, GPU-2, GPU-3, GPU-4 and 2 more, which" in said

    @pytest.mark.parametrize("own", ["", "no answer; try again"])
    def test_stands_after_the_message_once(self, own: str) -> None:
        once = with_difference(own, self.BOTH)
        assert once.startswith(own)
        assert once.endswith(self.BOTH)
        assert with_difference(once, self.BOTH) == once
        assert with_difference(once, "") == own

    def test_is_whole_after_a_long_message(self) -> None:
        said = with_difference("x<" * 600, self.BOTH)
        assert said.endswith(f"…; {self.BOTH}")
        assert encoded_size(said) <= MAX_CONDITION_MESSAGE

    def test_of_the_most_and_longest_uuids_leaves_room_for_a_failure(self) -> None:
        most = differences([f"{n:064}" for n in range(9)], [f"G{n:063}" for n in range(9)])
        assert encoded_size(most) < MAX_CONDITION_MESSAGE - 200


def context(published: PublishedGPUs | None) -> StatusContext:
    return StatusContext(generation=1, published=published)


def ready(status: InventoryStatus) -> str:
    found = find(status.conditions, ConditionType.READY)
    assert found is not None
    return found.message


STEPS = st.sampled_from(["read both", "read one", "fail", "depart"])
PUBLISHED = st.sampled_from([None, NOTHING_PUBLISHED, AB, PublishedGPUs(True, ("GPU-a",), "L4")])


@given(st.lists(st.tuples(STEPS, PUBLISHED), max_size=12))
def test_slices_never_change_gpus_and_history(
    steps: list[tuple[str, PublishedGPUs | None]],
) -> None:
    with_slices, without = ReadNode(), ReadNode()
    for step, published in steps:
        with_slices.context = context(published)
        for node in (with_slices, without):
            match step:
                case "read both":
                    node.read(A, B, after=10)
                case "read one":
                    node.read(A, after=10)
                case "fail":
                    node.fail()
                case "depart":
                    node.depart()
        one, other = with_slices.status, without.status
        assert (one.gpus, one.history, one.sequence) == (other.gpus, other.history, other.sequence)
        assert (one.serials, one.gpu_count) == (other.serials, other.gpu_count)
        assert one.last_change_time == other.last_change_time
        if one.gpus is not None:
            assert (one.product, one.source) == (other.product, other.source)
        shown = FromSlices.of(one)
        assert shown.is_source <= (one.gpus is None)


class TestStatus:
    """Every decision on a status shows what the slices say."""

    def test_a_node_that_was_never_read_has_product_and_driver_of_its_slices(self) -> None:
        node = ReadNode(context=context(AB))
        node.fail()
        shown = node.status.to_json()
        assert shown["source"] == {"resourceSlices": True}
        assert (shown["product"], shown["driverVersion"]) == (PRODUCT, "570.86.15")
        assert shown.keys().isdisjoint({"gpus", "gpuCount", "serials", "cudaVersion"})
        assert (shown["history"], shown["sequence"]) == ([], 0)

    def test_a_read_replaces_them_and_the_history_does_not_know_them(self) -> None:
        node = ReadNode(context=context(AB))
        node.fail()
        entries = node.read(A, B, driver="570.1")
        undisturbed = known(A, B, driver="570.1")
        assert types(entries) == ["GPUAdded", "GPUAdded"]
        assert node.status.history == undisturbed.status.history
        assert node.status.source == undisturbed.status.source
        assert node.status.product == undisturbed.status.product
        assert node.status.driver_version == "570.1"

    def test_an_entry_of_a_node_that_was_never_read_has_no_driver(self) -> None:
        node = ReadNode(context=context(AB))
        node.fail()
        (entry,) = node.depart()
        assert (entry.driver, entry.source) == (None, None)
        assert (node.status.product, node.status.driver_version) == (PRODUCT, "570.86.15")

    def test_they_go_with_the_slices(self) -> None:
        node = ReadNode(context=context(AB))
        node.fail()
        before = node.status
        node.context = context(None)
        node.fail()
        assert node.status == before
        node.context = context(NOTHING_PUBLISHED)
        node.fail()
        shown = node.status.to_json()
        assert shown.keys().isdisjoint({"source", "product", "driverVersion"})

    def test_a_failure_keeps_its_message_before_the_difference(self) -> None:
        node = known(A)
        node.context = context(AB)
        node.fail()
        assert ready(node.status) == f"no; {differences(AB.uuids, ['GPU-a'])}"
        before = node.status
        node.fail()
        assert node.status == before
        node.depart()
        assert "ResourceSlices" not in ready(node.status)

    def test_a_change_without_a_read_leaves_the_rest_of_ready_as_it_is(self) -> None:
        node = known(A)
        before = find(node.status.conditions, ConditionType.READY)
        change = plan.reconsidered(node.status, now=NOW, context=context(AB))
        now = find(change.status.conditions, ConditionType.READY)
        assert before is not None and now is not None
        assert now.status is ConditionStatus.TRUE
        assert now == before.model_copy(update={"message": differences(AB.uuids, ["GPU-a"])})
        back = plan.reconsidered(change.status, now=NOW, context=context(NOTHING_PUBLISHED))
        assert back.status == node.status
        assert change.entries == back.entries == ()

    def test_a_suspended_node_shows_it_too(self) -> None:
        node = known(A)
        suspended = StatusContext(generation=1, published=AB, suspended=True)
        change = plan.reconsidered(node.status, now=NOW, context=suspended)
        assert ready(change.status) == f"reads are suspended; {differences(AB.uuids, ['GPU-a'])}"
        again = plan.reconsidered(change.status, now=NOW, context=suspended)
        assert again.status == change.status
