"""The inventory cache: newer versions replace older ones, and statuses are returned unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gpuid_operator.api.inventory import GPU, InventoryState, InventoryStatus
from gpuid_operator.engine.state.cached_inventory import NO_SPEC, CachedInventory
from gpuid_operator.engine.state.inventory_cache import UNPACKED, InventoryCache
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.kube.inventories import InventoryMeta
from gpuid_operator.plan.status import request_token

STATUS: dict[str, Any] = {
    "state": "Present",
    "sequence": 9,
    "observedGeneration": 3,
    "policy": "gold",
    "lastHandledRequest": "r1",
    "lastReadTime": "2026-06-07T10:30:45Z",
    "lastChangeTime": "2026-06-06T10:30:45Z",
    "node": {"name": "n1", "machine": "i-1", "bootID": "b"},
    "source": {"namespace": "ns", "pod": "p", "container": "c", "containerID": "containerd://1"},
    "gpus": [{"serial": "s1", "chassisSerial": "c1"}, {"uuid": "GPU-2"}],
    "sinks": [{"name": "out", "type": "stdout", "deliveredSequence": 7, "pending": 2}],
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Suspended",
            "lastTransitionTime": "2026-06-07T10:30:45Z",
        }
    ],
}


def inventory(
    name: str = "n1", *, version: int = 5, uid: str = "u1", **fields: Any
) -> dict[str, Any]:
    meta = {
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "generation": 3,
        "labels": fields.pop("labels", {}),
        "annotations": fields.pop("annotations", {}),
    }
    return {"metadata": meta, "spec": {}, "status": STATUS} | fields


def cached(cache: InventoryCache, name: str = "n1") -> CachedInventory:
    found = cache.get(name)
    assert found is not None
    return found


@pytest.fixture
def cache() -> InventoryCache:
    """A cache with one inventory: n1, of version 5."""
    cache = InventoryCache()
    assert cache.put_object(inventory())
    return cache


def test_the_fields_that_the_loops_need_are_uncompressed(cache: InventoryCache) -> None:
    known = cached(cache)
    assert (known.name, known.uid, known.resource_version, known.generation) == ("n1", "u1", "5", 3)
    assert known.state is InventoryState.PRESENT
    assert not known.departed
    assert (known.sequence, known.policy, known.observed_generation) == (9, "gold", 3)
    assert known.handled_request == "r1"
    assert known.read_container == "containerd://1"
    assert known.last_read is not None
    assert known.last_read.isoformat() == "2026-06-07T10:30:45+00:00"
    assert known.last_change is not None
    assert known.last_change.isoformat() == "2026-06-06T10:30:45+00:00"
    assert (known.ready, known.suspended) == (True, True)
    assert known.node is not None
    assert known.node.machine == "i-1"
    assert known.pairs == (("c1", "s1"), (None, None))
    assert known.cursors == (("out", "stdout", 7, 2),)
    assert known.spec is NO_SPEC
    assert known.request is None
    assert not known.unsettled


def test_an_inventory_without_a_status_has_the_defaults() -> None:
    cache = InventoryCache()
    cache.put_object(inventory(status=None))
    known = cached(cache)
    assert (known.state, known.pairs, known.node, known.last_read) == (None, None, None, None)
    assert (known.ready, known.suspended) == (False, False)
    assert cache.status("n1") == InventoryStatus()


def test_a_requested_read_and_a_spec_are_uncompressed(cache: InventoryCache) -> None:
    asked = {"gpuid.github.com/requestedAt": "t" * 2000}
    cache.put_object(inventory(version=6, annotations=asked, spec={"suspend": True}))
    assert cached(cache).request == request_token("t" * 2000)
    assert cached(cache).spec.suspend is True


@pytest.mark.parametrize(
    ("labels", "managed"),
    [
        ({"app.kubernetes.io/managed-by": "gpuid-operator"}, True),
        ({"app.kubernetes.io/managed-by": "helm"}, False),
        ({}, False),
    ],
)
def test_an_inventory_is_managed_if_the_operator_created_it(
    labels: dict[str, str], managed: bool
) -> None:
    cache = InventoryCache()
    cache.put_object(inventory(labels=labels))
    assert cached(cache).managed is managed


def test_a_status_is_returned_whole(cache: InventoryCache) -> None:
    assert cache.status("n1") == InventoryStatus.model_validate(STATUS)
    assert cache.status("unknown") == InventoryStatus()


def test_statuses_are_returned_whole_after_they_were_compressed() -> None:
    cache = InventoryCache()
    names = [f"n{number}" for number in range(UNPACKED + 5)]
    for number, name in enumerate(names):
        cache.put_object(inventory(name, uid=name, status={"state": "Present", "sequence": number}))
    for _ in range(2):
        assert [cache.status(name).sequence for name in names] == list(range(len(names)))
    assert len(cache) == len(names)
    assert {known.name for known in cache} == set(names)


def test_a_status_that_was_just_stored_is_not_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = InventoryCache()
    cache.put_object(inventory("n1", uid="n1", status=STATUS))
    monkeypatch.setattr(CachedInventory, "unpack", None)
    assert cache.status("n1") == InventoryStatus.model_validate(STATUS)


def test_the_most_recently_used_statuses_stay_uncompressed() -> None:
    cache = InventoryCache()
    names = [f"n{number}" for number in range(UNPACKED + 1)]
    for name in names:
        cache.put_object(inventory(name, uid=name))
    first, second = (cache.status(name) for name in names[:2])
    for name in names[2:-1]:
        cache.status(name)
    assert cache.status(names[0]) is first
    cache.status(names[-1])  # one too many: the second one is the least recently used
    assert cache.status(names[0]) is first
    assert cache.status(names[1]) is not second


def test_a_look_at_many_statuses_leaves_those_that_are_kept() -> None:
    cache = InventoryCache()
    names = [f"n{number}" for number in range(UNPACKED + 10)]
    for name in names:
        cache.put_object(inventory(name, uid=name))
    kept = [cache.status(name) for name in names[-UNPACKED:]]
    for name in names:
        assert cache.read_once(name) == InventoryStatus.model_validate(STATUS)
    assert all(
        cache.status(name) is status for name, status in zip(names[-UNPACKED:], kept, strict=True)
    )
    assert cache.read_once("unknown") == InventoryStatus()


@pytest.mark.parametrize(("version", "replaces"), [(4, False), (5, False), (6, True)])
def test_a_later_version_replaces_an_earlier_one(
    cache: InventoryCache, version: int, replaces: bool
) -> None:
    assert cache.put_object(inventory(version=version, status={"sequence": 1})) is replaces
    assert cache.status("n1").sequence == (1 if replaces else 9)


def test_another_uid_replaces_an_inventory_at_any_version(cache: InventoryCache) -> None:
    assert cache.put_object(inventory(version=2, uid="u2"))
    assert cached(cache).uid == "u2"


def test_a_created_inventory_is_managed_and_has_no_status() -> None:
    cache = InventoryCache()
    meta = InventoryMeta(uid="u1", resource_version="5", generation=1)
    cache.put_created("n1", meta, labels={"a": "b"})
    known = cached(cache)
    assert known.managed
    assert known.labels["a"] == "b"
    assert (known.uid, known.resource_version, known.generation) == ("u1", "5", 1)
    assert known.state is None
    assert cache.status("n1") == InventoryStatus()


def test_an_inventory_that_was_created_again_has_no_status(cache: InventoryCache) -> None:
    """The event of the deletion may come later than the answer of the API server."""
    cache.put_created("n1", InventoryMeta("u2", "9", 1), labels={})
    assert cache.status("n1") == InventoryStatus()


def test_a_created_inventory_does_not_replace_what_an_event_brought(cache: InventoryCache) -> None:
    cache.put_created("n1", InventoryMeta("u1", "4", 1), labels={})
    assert cached(cache).resource_version == "5"
    assert cached(cache).state is InventoryState.PRESENT


def test_a_written_status_is_returned_as_the_same_object(cache: InventoryCache) -> None:
    status = InventoryStatus(state=InventoryState.DEPARTED, gpus=[GPU(serial="s2")])
    cache.put_status("n1", status, status.to_json(), resource_version="6")
    assert cache.status("n1") is status
    assert cached(cache).departed
    assert cached(cache).pairs == ((None, "s2"),)
    # The event of this write changes nothing.
    assert not cache.put_object(inventory(version=6, status=status.to_json()))


@pytest.mark.parametrize("kept", [True, False], ids=["kept as object", "compressed"])
def test_a_written_status_has_the_facts_of_its_gpus(kept: bool) -> None:
    cache = InventoryCache()
    gpus = [{"uuid": "GPU-1", "product": "A", "quarantines": ["rma"]}]
    before = STATUS | {"gpus": gpus, "driverVersion": "1"}
    cache.put_object(inventory(status=before))
    if not kept:
        for number in range(UNPACKED):
            cache.put_object(inventory(f"m{number}", uid=f"m{number}"))
    changes: list[dict[str, Any]] = [
        {"sequence": 10},
        {"driver_version": "2"},
        {"gpus": [GPU(uuid="GPU-2", product="B")]},
        {"gpus": []},
        {"gpus": None},
    ]
    found = []
    for version, change in enumerate(changes, start=6):
        status = cache.read_once("n1").model_copy(update=change)
        cache.put_status("n1", status, status.to_json(), resource_version=str(version))
        known = cached(cache)
        hardware = known.hardware
        assert cache.by_uuid.names("GPU-1") == (frozenset({"n1"}) if version < 8 else frozenset())
        found.append(
            (known.uuids, known.quarantines, hardware and (hardware.products, hardware.driver))
        )
    assert found == [
        (("GPU-1",), ("rma",), (("A",), "1")),
        (("GPU-1",), ("rma",), (("A",), "2")),
        (("GPU-2",), (), (("B",), "2")),
        ((), (), ((), "2")),
        ((), (), None),
    ]


def test_a_written_status_does_not_replace_a_later_version(
    cache: InventoryCache,
) -> None:
    cache.put_object(inventory(version=8, status={"sequence": 20}))
    cache.put_status("n1", InventoryStatus(sequence=10), {"sequence": 10}, resource_version="7")
    cache.put_labels("n1", {"a": "b"}, resource_version="7")
    assert (cached(cache).sequence, cached(cache).labels) == (20, {})
    assert cache.status("n1").sequence == 20


def test_written_labels_are_stored(cache: InventoryCache) -> None:
    cache.put_labels("n1", {"a": "b"}, resource_version="6")
    assert (cached(cache).labels, cached(cache).resource_version) == ({"a": "b"}, "6")


def test_a_write_to_a_deleted_inventory_stores_nothing() -> None:
    cache = InventoryCache()
    cache.put_status("n1", InventoryStatus(), {}, resource_version="6")
    cache.put_labels("n1", {}, resource_version="6")
    assert "n1" not in cache
    assert len(cache) == 0


@pytest.mark.parametrize(("uid", "gone"), [(None, True), ("u1", True), ("u0", False)])
def test_a_deleted_inventory_is_removed_but_not_one_created_since(
    cache: InventoryCache, uid: str | None, gone: bool
) -> None:
    cache.status("n1")
    assert cache.remove("n1", uid=uid) is gone
    assert ("n1" in cache) is not gone
    assert cache.status("n1").sequence == (0 if gone else 9)
    assert not cache.remove("n2")


INVALID: dict[str, Any] = {"state": "FromTheFuture"}


def test_an_inventory_that_cannot_be_parsed_is_reported_once_per_version(
    cache: InventoryCache,
) -> None:
    with pytest.raises(ValidationError):
        cache.put_object(inventory(version=6, status=INVALID))
    assert cache.is_invalid("n1")
    assert "n1" not in cache
    assert not cache.put_object(inventory(version=6, status=INVALID))
    with pytest.raises(ValidationError):
        cache.put_object(inventory(version=7, status=INVALID))
    assert cache.uids() == {"n1": "u1"}


def test_a_corrected_inventory_is_stored(cache: InventoryCache) -> None:
    with pytest.raises(ValidationError):
        cache.put_object(inventory(version=6, status=INVALID))
    assert cache.put_object(inventory(version=7))
    assert not cache.is_invalid("n1")
    assert "n1" in cache


def test_a_deleted_inventory_that_could_not_be_parsed_is_removed(cache: InventoryCache) -> None:
    with pytest.raises(ValidationError):
        cache.put_object(inventory(version=6, status=INVALID))
    assert not cache.remove("n1", uid="another")
    assert cache.remove("n1", uid="u1")
    assert not cache.is_invalid("n1")
    assert cache.uids() == {}


@pytest.mark.parametrize(
    ("version", "than", "later"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("9", "9", False),
        ("b", "a", True),  # not a number: any other version counts as later
        ("a", "b", True),
        ("a", "a", False),
        ("1", "", True),
    ],
)
def test_resource_versions_are_compared_as_numbers(version: str, than: str, later: bool) -> None:
    assert newer(version, than=than) is later
