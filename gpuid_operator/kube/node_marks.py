"""What `metadata.managedFields` shows about the spec and the status of a Node.

The API server lists for each writer of an object the fields that this writer set, and the time at
which it last changed one of them. A field that is removed leaves the lists, without a new time. So
a part of a Node is unchanged while the entries for it have the same fields and the same times,
which the metadata alone shows; see docs/adr/0022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import orjson

from gpuid_operator.api.meta import GPU_RESOURCE

SETTLED: Final = timedelta(minutes=1)
"""Times in managedFields are whole seconds of the clocks of several API servers. A change that
comes this long after another one has another time."""

_FORMAT: Final = "FieldsV1"
_STATUS: Final = ("f:nodeInfo", "f:capacity")
_BYTES: Final = 12


class _Entry(NamedTuple):
    """A writer, and its fields of one part."""

    writer: tuple[str, ...]
    time: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeMarks:
    """Fingerprints of who set the parts of a Node, and when. While a part has the mark with which
    the Node was read, it has not changed since."""

    spec: bytes
    """Covers the whole spec. Empty where the spec may have changed after the Node was read, in the
    same second."""
    status: bytes
    """Covers nodeInfo and capacity; empty as `spec`. A heartbeat of the kubelet, every five
    minutes, changes the mark and neither of them."""
    has_capacity: bool
    """Whether `status.capacity` names GPUs, be it none of them."""

    @classmethod
    def from_metadata(cls, meta: Mapping[str, Any]) -> NodeMarks | None:
        """The marks of a Node as it is listed; None where its managedFields do not show them."""
        parts = _parts(meta)
        return None if parts is None else _marks(*parts)

    @classmethod
    def from_node(cls, node: Mapping[str, Any], *, as_of: datetime | None) -> NodeMarks | None:
        """The marks of a whole Node that was read after `as_of`, a time of the API server's clock.
        None also where a field that the operator uses has no writer."""
        parts = _parts(node["metadata"])
        if parts is None or as_of is None or not _all_have_writers(node, *parts):
            return None
        marks, (spec, status) = _marks(*parts), parts
        return replace(
            marks,
            spec=marks.spec if _is_settled(spec, as_of) else b"",
            status=marks.status if _is_settled(status, as_of) else b"",
        )


_Parts = tuple[Sequence[_Entry], Sequence[_Entry]]
"""The entries of the spec, and those of the fields of the status that the operator uses."""


def _parts(meta: Mapping[str, Any]) -> _Parts | None:
    """None where managedFields are missing, or have a form that says nothing about a part."""
    entries = meta.get("managedFields") or ()
    spec: list[_Entry] = []
    status: list[_Entry] = []
    for entry in entries:
        fields = entry.get("fieldsV1")
        if entry.get("fieldsType") != _FORMAT or not isinstance(fields, Mapping):
            return None
        keys = ("manager", "operation", "apiVersion", "subresource")
        writer, time = tuple(entry.get(key) or "" for key in keys), entry.get("time") or ""
        if "f:spec" in fields:
            spec.append(_Entry(writer, time, fields["f:spec"]))
        used = {
            key: fields["f:status"][key] for key in _STATUS if key in fields.get("f:status", ())
        }
        if used:
            status.append(_Entry(writer, time, used))
    return (spec, status) if entries else None


def _marks(spec: Sequence[_Entry], status: Sequence[_Entry]) -> NodeMarks:
    return NodeMarks(_mark(spec), _mark(status), _names_gpus(status))


def _mark(part: Sequence[_Entry]) -> bytes:
    entries = sorted(map(tuple, part), key=lambda entry: entry[:2])
    listed = orjson.dumps(entries, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(listed, digest_size=_BYTES).digest()


def _is_settled(part: Sequence[_Entry], as_of: datetime) -> bool:
    return all(
        entry.time and datetime.fromisoformat(entry.time) <= as_of - SETTLED for entry in part
    )


def _names_gpus(status: Sequence[_Entry]) -> bool:
    return any(f"f:{GPU_RESOURCE}" in entry.fields.get("f:capacity", ()) for entry in status)


def _all_have_writers(
    node: Mapping[str, Any], spec: Sequence[_Entry], status: Sequence[_Entry]
) -> bool:
    there, facts = node.get("spec") or {}, node.get("status") or {}
    fields = {key for entry in (*spec, *status) for key in entry.fields}
    return (
        all(f"f:{key}" in fields for key in ("providerID", "taints") if there.get(key))
        and ("f:nodeInfo" in fields or not facts.get("nodeInfo"))
        and (_names_gpus(status) or GPU_RESOURCE not in (facts.get("capacity") or {}))
    )
