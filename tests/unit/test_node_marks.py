"""What the managedFields of a Node show about the rest of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuid_operator.kube.node_marks import SETTLED, NodeMarks

CHANGED = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
LATER = CHANGED + SETTLED
GPU = "nvidia.com/gpu"


def entry(
    fields: dict[str, Any], *, manager: str = "kubelet", at: datetime = CHANGED, **other: Any
) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **other,
    }


def spec(*names: str, **writer: Any) -> dict[str, Any]:
    return entry({"f:spec": {f"f:{name}": {} for name in names}}, **writer)


def status(**writer: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "f:capacity": {".": {}, "f:cpu": {}, f"f:{GPU}": {}},
        "f:conditions": {},
        "f:nodeInfo": {"f:bootID": {}},
    }
    return entry({"f:status": fields}, subresource="status", **writer)


def labels(**writer: Any) -> dict[str, Any]:
    return entry({"f:metadata": {"f:labels": {"f:zone": {}}}}, **writer)


def node(*entries: dict[str, Any]) -> dict[str, Any]:
    """A Node of which these entries tell."""
    return {
        "metadata": {"name": "n1", "managedFields": list(entries)},
        "spec": {"providerID": "aws:///a/i-1", "taints": [{"key": GPU}]},
        "status": {"capacity": {"cpu": "1", GPU: "8"}, "nodeInfo": {"bootID": "b1"}},
    }


WHOLE = node(spec("providerID", "taints"), status())


def listed(*entries: dict[str, Any]) -> NodeMarks:
    marks = NodeMarks.from_metadata(node(*entries)["metadata"])
    assert marks is not None
    return marks


def read(body: dict[str, Any] = WHOLE, as_of: datetime = LATER) -> NodeMarks:
    marks = NodeMarks.from_node(body, as_of=as_of)
    assert marks is not None
    return marks


def test_the_same_entries_give_the_same_marks_in_any_order() -> None:
    marks = listed(status(), labels(manager="b"), spec("taints", "providerID"))
    assert marks == read()
    assert marks.has_capacity


@pytest.mark.parametrize(
    "entries",
    [
        (spec("providerID", "taints", at=LATER),),
        (spec("providerID"),),
        (spec("providerID", "taints", "unschedulable"),),
        (spec("providerID", "taints", manager="other"),),
        (spec("providerID"), spec("taints", manager="controller")),
        (),
    ],
    ids=["time", "removed", "added", "manager", "another entry", "nobody"],
)
def test_a_change_of_the_spec_changes_its_mark_alone(entries: tuple[dict[str, Any], ...]) -> None:
    marks = listed(*entries, status())
    assert marks.spec != read().spec
    assert marks.status == read().status


def test_a_change_of_labels_changes_no_mark() -> None:
    entries = spec("providerID", "taints"), status(), labels(manager="kubectl-label", at=LATER)
    assert listed(*entries) == read()


def test_a_heartbeat_changes_the_mark_of_the_status_alone() -> None:
    marks = listed(spec("providerID", "taints"), status(at=LATER))
    assert marks.status != read().status
    assert marks.spec == read().spec


def test_conditions_of_another_writer_change_no_mark() -> None:
    conditions = entry({"f:status": {"f:conditions": {}}}, manager="detector", at=LATER)
    assert listed(spec("providerID", "taints"), status(), conditions) == read()


def test_capacity_is_there_while_somebody_has_set_it() -> None:
    without = entry({"f:status": {"f:capacity": {"f:cpu": {}}}})
    assert not listed(without).has_capacity
    assert listed(without, status(manager="device-plugin")).has_capacity


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        [spec("taints", fieldsType="FieldsV2")],
        [spec("taints", fieldsV1=None)],
    ],
    ids=["missing", "empty", "format", "no fields"],
)
def test_there_are_no_marks_without_such_managed_fields(entries: Any) -> None:
    body = WHOLE | {"metadata": {"managedFields": entries}}
    assert NodeMarks.from_metadata(body["metadata"]) is None
    assert NodeMarks.from_node(body, as_of=LATER) is None


@pytest.mark.parametrize(
    "body",
    [
        node(spec("providerID"), status()),
        node(spec("taints"), status()),
        node(spec("providerID", "taints")),
        node(spec("providerID", "taints"), entry({"f:status": {"f:nodeInfo": {}}})),
    ],
    ids=["taints", "providerID", "status", "capacity"],
)
def test_a_field_without_a_writer_gives_no_marks(body: dict[str, Any]) -> None:
    assert NodeMarks.from_node(body, as_of=LATER) is None


def test_a_part_that_has_just_changed_is_not_settled() -> None:
    """Another change in the same second would have the same mark."""
    soon = LATER - timedelta(seconds=1)
    marks = read(as_of=soon)
    assert (marks.spec, marks.status) == (b"", b"")
    assert marks.has_capacity
    beat = read(node(spec("providerID", "taints"), status(at=LATER)))
    assert beat.spec == read().spec
    assert beat.status == b""


def test_without_a_clock_of_the_server_there_are_no_marks() -> None:
    assert NodeMarks.from_node(WHOLE, as_of=None) is None
