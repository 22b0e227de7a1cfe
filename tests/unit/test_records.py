"""Records of history entries: a function of the entry and of names that never change."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import HistoryEntry, HistoryType, Seen
from gpuid_operator.plan.records import records_for

TIME = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
NAMES = {"inventory_uid": "5f0e", "node": "gpu-node-01", "cluster": "prod"}

_text = st.none() | st.text(min_size=1, max_size=20)
_entries = st.builds(
    HistoryEntry,
    sequence=st.integers(1, 10**6),
    time=st.datetimes(timezones=st.just(UTC), min_value=datetime(2020, 1, 1)),
    type=st.sampled_from(HistoryType),
    uuid=_text,
    serial=_text,
    pci_address=_text,
    chassis=_text,
    machine=_text,
    source=_text,
    product=_text,
    driver=_text,
    from_=_text,
    to=_text,
    seen=st.none() | st.lists(st.builds(Seen, chassis=_text, serial=_text), max_size=8),
)


def test_the_record_of_a_change_is_that_of_the_contract() -> None:
    entry = HistoryEntry(
        sequence=1,
        time=TIME,
        type=HistoryType.GPU_ADDED,
        uuid="GPU-25e04bdf",
        serial="1761025346025",
        pci_address="00000000:29:00.0",
        chassis="1821325191344",
        machine="i-1234567890abcdef0",
        source="gpu-operator/nvidia-device-plugin-abc",
        product="NVIDIA GB200",
        driver="570.148.08",
    )
    (record,) = records_for(entry, sightings=False, **NAMES)
    assert record.to_json() == {
        "id": "5f0e.1.1780828245",
        "event": "GPUAdded",
        "cluster": "prod",
        "node": "gpu-node-01",
        "machine": "i-1234567890abcdef0",
        "source": "gpu-operator/nvidia-device-plugin-abc",
        "chassis": "1821325191344",
        "gpu": "1761025346025",
        "time": "2026-06-07T10:30:45Z",
        "uuid": "GPU-25e04bdf",
        "pci": "00000000:29:00.0",
        "product": "NVIDIA GB200",
        "driver": "570.148.08",
        "sequence": 1,
        "from": None,
        "to": None,
    }


def test_an_entry_about_the_node_has_no_gpu() -> None:
    entry = HistoryEntry(
        sequence=7, time=TIME, type=HistoryType.DRIVER_CHANGED, from_="550.1", to="570.2"
    )
    (record,) = records_for(entry, sightings=False, **NAMES)
    assert (record.gpu, record.chassis, record.machine) == ("na", "unknown", "na")
    assert (record.uuid, record.source) == (None, "")
    assert (record.from_, record.to) == ("550.1", "570.2")


def test_a_sighting_gives_one_record_per_pair() -> None:
    entry = HistoryEntry(
        sequence=3,
        time=TIME,
        type=HistoryType.SIGHTED,
        machine="i-1",
        source="ns/pod",
        seen=[Seen(chassis="c1", serial="s1"), Seen(serial="s2"), Seen()],
    )
    records = records_for(entry, sightings=True, **NAMES)
    assert [(r.id, r.chassis, r.gpu) for r in records] == [
        ("5f0e.3.1780828245.0", "c1", "s1"),
        ("5f0e.3.1780828245.1", "unknown", "s2"),
        ("5f0e.3.1780828245.2", "unknown", "na"),
    ]
    assert {(r.event, r.machine, r.source, r.uuid) for r in records} == {
        ("Sighted", "i-1", "ns/pod", None)
    }
    assert records_for(entry, sightings=False, **NAMES) == []


@given(_entries)
def test_each_entry_goes_to_one_kind_of_sink(entry: HistoryEntry) -> None:
    changes = records_for(entry, sightings=False, **NAMES)
    sightings = records_for(entry, sightings=True, **NAMES)
    if entry.type is HistoryType.SIGHTED:
        assert changes == []
        assert len(sightings) == len(entry.seen or [])
    else:
        assert sightings == []
        assert len(changes) == 1


@given(st.lists(_entries, max_size=6, unique_by=lambda entry: entry.sequence), st.booleans())
def test_ids_are_unique_and_stay(entries: list[HistoryEntry], sightings: bool) -> None:
    def all_records() -> list[dict[str, object]]:
        return [
            record.to_json()
            for entry in entries
            for record in records_for(
                HistoryEntry.model_validate(entry.to_json()), sightings=sightings, **NAMES
            )
        ]

    records = all_records()
    assert len({record["id"] for record in records}) == len(records)
    assert all_records() == records
