"""A model of a node with GPUs, its operator and its sinks, and the invariants of the status.

`NodeModel` records by itself what is true. After each event it compares the status with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    GPUHealth,
    GPUState,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.api.meta import MAX_HISTORY
from gpuid_operator.api.policy import Expectation
from gpuid_operator.plan import delivery, history, labels, outbox, status
from gpuid_operator.plan.conditions import find, shown
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.identity import Key, key
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.quarantine import Identifiers, QuarantineIndex, QuarantineRule
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import PendingRemovals, StatusChange, StatusContext
from tests.support.strategies import Event

START = datetime(2026, 6, 7, 10, 30, 45, 250_000, tzinfo=UTC)
SINKS = (
    SinkFilter("logs", "stdout", sightings=True),
    SinkFilter("cmdb", "http", sightings=False),
    SinkFilter("cmdb", "postgres", sightings=False),
    SinkFilter("lake", "s3", sightings=True),
)
EXPECTATIONS = (
    None,
    Expectation(gpus=2),
    Expectation(gpus=3, products=["NVIDIA GB200"], drivers=["570.0", "570.1"]),
    Expectation(products=["NVIDIA H100"]),
    Expectation(drivers=["570.0"]),
)
ADDRESSES = [f"00000000:{bus:02X}:00.0" for bus in range(1, 7)]


def card(number: int, *, address: str, anonymous: bool = False) -> GPU:
    """A GPU; two neighbours share a serial, as on a GB200 board."""
    return GPU(
        uuid=None if anonymous else f"GPU-{number:04d}",
        serial=f"1750{number:09d}" if anonymous else f"1650{number // 2:09d}",
        pci_address=address,
        product="NVIDIA GB200",
        chassis_serial=f"18210{number % 3}" if number % 3 else None,
        vbios="97.00",
        health=GPUHealth(recovery_action="None", ecc_uncorrected=0),
    )


class NodeModel:
    def __init__(self, *, max_history: int = MAX_HISTORY) -> None:
        self.max_history = max_history
        self.now = START
        self.status = InventoryStatus()
        self.hardware: list[GPU] = []
        self.node = NodeInfo(name="n", uid="u0", provider_id="x/i-0", machine="i-0", boot_id="b0")
        self.container = self.driver = self.made = 0
        self.context = StatusContext(
            generation=1,
            sink_filters=SINKS[:2],
            sighting_interval=timedelta(hours=20),
            quarantines=QuarantineIndex(),
        )
        self.pending_removals: PendingRemovals | None = None
        self.failing: str | None = None
        self.books: dict[int, HistoryEntry] = {}
        self.got: dict[SinkFilter, list[int]] = {}
        self.dropped = 0
        self.owed: dict[SinkFilter, set[int]] = {
            sink_filter: set() for sink_filter in self.context.sink_filters
        }

    def run(self, events: Sequence[Event]) -> InventoryStatus:
        for what, one, other in events:
            getattr(self, what.replace(" ", "_"))(one, other)
            self.now += timedelta(seconds=3)
        return self.status

    # Hardware

    def _free(self) -> list[str]:
        taken = {gpu.pci_address for gpu in self.hardware}
        return [address for address in ADDRESSES if address not in taken]

    def _new(self, address: str, other: int) -> GPU:
        self.made += 1
        return card(self.made, address=address, anonymous=other % 5 == 4)

    def add(self, one: int, other: int) -> None:
        if free := self._free():
            self.hardware.append(self._new(free[one % len(free)], other))

    def remove(self, one: int, other: int) -> None:
        if self.hardware:
            self.hardware.pop(one % len(self.hardware))

    def move(self, one: int, other: int) -> None:
        if self.hardware and (free := self._free()):
            self._alter(one, pci_address=free[other % len(free)])

    def exchange(self, one: int, other: int) -> None:
        if len(self.hardware) > 1:
            one, other = one % len(self.hardware), (one + 1) % len(self.hardware)
            places = self.hardware[one].pci_address, self.hardware[other].pci_address
            self._alter(one, pci_address=places[1])
            self._alter(other, pci_address=places[0])

    def swap(self, one: int, other: int) -> None:
        if self.hardware:
            at = one % len(self.hardware)
            self.hardware[at] = self._new(self.hardware[at].pci_address or "", other)

    def lose(self, one: int, other: int) -> None:
        if self.hardware:
            self._alter(one, state=GPUState.LOST)

    def unreadable(self, one: int, other: int) -> None:
        if self.hardware:
            self._alter(one, state=GPUState.UNKNOWN)

    def recover(self, one: int, other: int) -> None:
        if self.hardware:
            self._alter(one, state=GPUState.OK)

    def change(self, one: int, other: int) -> None:
        if self.hardware:
            fact = ("vbios", "board_part_number", "gpu_part_number", "slot")[other % 4]
            self._alter(one, **{fact: other if fact == "slot" else f"new-{other}"})

    def health(self, one: int, other: int) -> None:
        if self.hardware:
            action = "Reset" if other % 2 else "None"
            self._alter(one, health=GPUHealth(recovery_action=action, ecc_uncorrected=other))

    def _alter(self, one: int, **facts: object) -> None:
        at = one % len(self.hardware)
        self.hardware[at] = self.hardware[at].model_copy(update=facts)

    # The node

    def restart(self, one: int, other: int) -> None:
        self.container += 1

    def upgrade(self, one: int, other: int) -> None:
        """Another driver, which gives a fact that the former did not, or no longer gives it."""
        self.driver += 1
        for at, gpu in enumerate(self.hardware):
            self._alter(at, gpu_part_number=None if gpu.gpu_part_number else "2941")

    def reboot(self, one: int, other: int) -> None:
        self.node = self.node.model_copy(update={"boot_id": f"b{self.now.timestamp()}"})
        self.container += 1

    def another_machine(self, one: int, other: int) -> None:
        name = f"i-{self.now.timestamp():.0f}"
        self.node = self.node.model_copy(
            update={"uid": name, "provider_id": f"x/{name}", "machine": name, "boot_id": name}
        )
        self.container += 1

    def day(self, one: int, other: int) -> None:
        self.now += timedelta(hours=24)

    # The operator

    def _reading(self) -> Reading:
        seen = []
        for gpu in self.hardware:
            if gpu.state is GPUState.OK:
                seen.append(gpu)
            else:
                seen.append(GPU(pci_address=gpu.pci_address, state=gpu.state))
        seen.sort(key=lambda gpu: gpu.pci_address or "")
        return Reading(driver_version=f"570.{self.driver}", cuda_version="12.8", gpus=tuple(seen))

    def _read(self, now: datetime, pending_removals: PendingRemovals | None) -> StatusChange:
        return status.after_read(
            self.status,
            self._reading(),
            source=Source(
                namespace="g", pod="p", container="c", container_id=f"c://{self.container}"
            ),
            node=self.node,
            now=now,
            context=self.context,
            pending_removals=pending_removals,
        )

    def late_read(self, one: int, other: int) -> None:
        self.now += timedelta(seconds=10)
        self.read(one, other)

    def read(self, one: int, other: int) -> None:
        before = self.status
        change = self._read(self.now, self.pending_removals)
        self._commit(change)
        self._check_removals(before, change)
        self.pending_removals = change.pending_removals
        assert self.status.state is InventoryState.PRESENT
        assert {gpu.pci_address for gpu in self.hardware} <= {
            gpu.pci_address for gpu in self.status.gpus or ()
        }
        doubted = self.pending_removals.keys if self.pending_removals else frozenset()
        assert len(self.status.gpus or ()) == len(self.hardware) + len(doubted)
        for gpu in self.hardware:
            if gpu.state is GPUState.OK:
                assert any(key(gpu) == key(known) for known in self.status.gpus or ())
        if change.pending_removals is None:
            assert self.status.last_read_time == self.now.replace(microsecond=0)
        else:
            assert self.status.last_read_time == before.last_read_time
            assert self.status.source == before.source
        again = self._read(self.now, self.pending_removals)
        assert not again.entries
        assert again.status == self.status

    def _check_removals(self, before: InventoryStatus, change: StatusChange) -> None:
        """Nothing is said to be gone without one of the proofs."""
        gone = {
            key(entry): entry for entry in change.entries if entry.type is HistoryType.GPU_REMOVED
        }
        known = {key(gpu) for gpu in before.gpus or ()}
        rebooted = before.node is not None and before.node != self.node
        occupied = {gpu.pci_address for gpu in self.hardware}
        for name, entry in gone.items():
            confirmed = (
                self.pending_removals is not None
                and name in self.pending_removals.keys
                and self.now - self.pending_removals.since >= timedelta(seconds=10)
            )
            assert name in known
            assert rebooted or confirmed or entry.pci_address in occupied
            assert before.node is not None
            assert entry.machine == before.node.machine

    def fail(self, one: int, other: int) -> None:
        before = self.status
        self._commit(
            status.after_failure(
                self.status,
                reason=FailureReason.EXEC_FAILED,
                message="it did not work",
                node=self.node,
                now=self.now,
                context=self.context,
                request=f"please {one}",
            )
        )
        assert self.status.gpus == before.gpus
        assert self.status.last_handled_request == f"please {one}"
        if not self.context.suspended:
            ready = find(self.status.conditions, ConditionType.READY)
            assert ready is not None
            assert ready.status is ConditionStatus.FALSE

    def depart(self, one: int, other: int) -> None:
        self._commit(status.after_departure(self.status, now=self.now, context=self.context))
        self.pending_removals = None
        self.node = self.node.model_copy(update={"uid": f"u{self.now.timestamp()}"})
        self.container += 1
        assert self.status.state is InventoryState.DEPARTED
        again = status.after_departure(
            self.status, now=self.now + timedelta(hours=1), context=self.context
        )
        assert again == StatusChange(self.status)

    def suspend(self, one: int, other: int) -> None:
        self.context = replace(self.context, suspended=not self.context.suspended)
        self._reconsider()

    def expect(self, one: int, other: int) -> None:
        """The policy expects something else, or nothing."""
        self.context = replace(self.context, expect=EXPECTATIONS[one % len(EXPECTATIONS)])
        self._reconsider()

    def sink(self, one: int, other: int) -> None:
        """A sink comes, in place of another one of its name, or goes."""
        sink_filter = SINKS[one % len(SINKS)]
        before = self.context.sink_filters
        sink_filters = [known for known in before if known.name != sink_filter.name]
        for gone in set(before) - set(sink_filters):
            del self.owed[gone]
            self.got.pop(gone, None)
        if sink_filter not in before:
            sink_filters.insert(other % (len(sink_filters) + 1), sink_filter)
            # It starts from what the history holds.
            held = self.status.history or ()
            self.owed[sink_filter] = {entry.sequence for entry in held if sink_filter.takes(entry)}
        self.context = replace(self.context, sink_filters=tuple(sink_filters))
        self._reconsider()

    # Quarantines

    def quarantine(self, one: int, other: int) -> None:
        """A quarantine of a GPU, its board or its chassis is created or changed. Some end by
        themselves within two days."""
        if not self.made:
            return
        gpu = card(1 + one % self.made, address="")
        parts = [
            Identifiers(gpu.uuid, None, None),
            Identifiers(None, gpu.serial, None),
            Identifiers(None, None, gpu.chassis_serial),
        ]
        rule = QuarantineRule(
            name=f"q{other % 4}",
            reason=f"reason {one}",
            parts=frozenset([parts[other % 3]]),
            until=self.now + timedelta(hours=4 * one) if other % 3 == 0 else None,
        )
        self._quarantine({**self._rules(), rule.name: rule})

    def lift(self, one: int, other: int) -> None:
        """A quarantine is deleted."""
        name = f"q{other % 4}"
        self._quarantine({k: rule for k, rule in self._rules().items() if k != name})

    def later_quarantine(self, one: int, other: int) -> None:
        """A quarantine has a form that only a later version of the operator knows."""
        name = f"q{other % 4}"
        rules = {k: rule for k, rule in self._rules().items() if k != name}
        self._quarantine(rules, unreadable=[name])

    def forget_quarantines(self, one: int, other: int) -> None:
        """The operator starts, and has not listed the quarantines yet."""
        before = marks_of(self.status)
        self.context = replace(self.context, quarantines=None)
        self._reconsider()
        assert marks_of(self.status) == before

    def _rules(self) -> dict[str, QuarantineRule]:
        return dict(self.context.quarantines.rules) if self.context.quarantines else {}

    def _quarantine(self, rules: dict[str, QuarantineRule], unreadable: Sequence[str] = ()) -> None:
        index = QuarantineIndex(rules.values(), unreadable=unreadable)
        self.context = replace(self.context, quarantines=index)
        self._reconsider()

    def _reconsider(self) -> None:
        self._commit(status.reconsidered(self.status, now=self.now, context=self.context))
        later = self.now + timedelta(hours=1)
        again = status.reconsidered(self.status, now=later, context=self.context)
        assert again == StatusChange(self.status)

    # Delivery

    def deliver(self, one: int, other: int) -> None:
        if not self.context.sink_filters:
            return
        sink_filter = self.context.sink_filters[one % len(self.context.sink_filters)]
        after = outbox.cursor(self.status, sink_filter)
        batch = outbox.pending(self.status.history or (), sink_filter, after=after)[: 1 + 4 * other]
        if not batch:
            return
        numbers = [entry.sequence for entry in batch]
        got = self.got.setdefault(sink_filter, [])
        assert not got or numbers[0] > got[-1]
        got += numbers
        self.owed[sink_filter] -= set(numbers)
        self._commit(
            delivery.after_delivery(
                self.status, sink_filter, up_to=numbers[-1], now=self.now, context=self.context
            )
        )

    def refuse(self, one: int, other: int) -> None:
        if self.context.sink_filters:
            sink_filter = self.context.sink_filters[one % len(self.context.sink_filters)]
            self._commit(
                delivery.after_delivery_failure(
                    self.status,
                    sink_filter,
                    error="Refused: no",
                    now=self.now,
                    context=self.context,
                )
            )

    def deliver_all(self) -> None:
        for at, _ in enumerate(self.context.sink_filters):
            while outbox.pending(
                self.status.history or (),
                self.context.sink_filters[at],
                after=outbox.cursor(self.status, self.context.sink_filters[at]),
            ):
                self.deliver(at, 11)

    # What must hold

    def _commit(self, change: StatusChange) -> None:
        before, self.status = self.status, change.status
        self._check_sequence(before, change)
        self._check_expectation(change)
        self._check_outbox(before, change)
        self._check_replay()
        self._check_quarantines(change)
        self._check_bounds()

    def _check_sequence(self, before: InventoryStatus, change: StatusChange) -> None:
        numbers = [entry.sequence for entry in change.entries]
        assert numbers == list(range(before.sequence + 1, self.status.sequence + 1))
        self.books |= {entry.sequence: entry for entry in change.entries}
        kept = [entry.sequence for entry in self.status.history or ()]
        assert kept == sorted(set(kept))
        assert all(self.books[entry.sequence] == entry for entry in self.status.history or ())

    def _check_expectation(self, change: StatusChange) -> None:
        """History tells when AsExpected failed, for which reason, and when it no longer did."""
        for entry in change.entries:
            if entry.type is HistoryType.EXPECTATION_FAILED:
                assert entry.from_ != entry.to
                self.failing = entry.to
            elif entry.type in (HistoryType.EXPECTATION_MET, HistoryType.NODE_DEPARTED):
                self.failing = None
        said = shown(self.status.conditions, ConditionType.AS_EXPECTED)
        failed = said is not None and said.status is ConditionStatus.FALSE
        assert self.failing == (said.reason if said and failed else None)
        expect, count = self.context.expect, len(self.status.gpus or ())
        if expect is None:
            assert said is None
        elif self.status.gpus is not None and self.status.state is InventoryState.PRESENT:
            assert said is not None
            if expect.gpus is not None and count != expect.gpus:
                assert said.reason == ("TooFewGPUs" if count < expect.gpus else "TooManyGPUs")
            elif expect.gpus is not None:
                assert said.reason not in ("TooFewGPUs", "TooManyGPUs")

    def _check_outbox(self, before: InventoryStatus, change: StatusChange) -> None:
        held = {entry.sequence for entry in self.status.history or ()}
        cursors = {(sink.name, sink.type): sink for sink in self.status.sinks or ()}
        assert list(cursors) == [
            (sink_filter.name, sink_filter.type) for sink_filter in self.context.sink_filters
        ]
        lost: set[int] = set()
        dropped: dict[str, int] = {}
        for sink_filter in self.context.sink_filters:
            owed = self.owed[sink_filter]
            owed |= {entry.sequence for entry in change.entries if sink_filter.takes(entry)}
            missed = {n for n in owed - held if self.books[n].type is not HistoryType.DROPPED}
            dropped |= {sink_filter.name: len(missed)} if missed else {}
            lost |= missed
            owed &= held
            sink = cursors[(sink_filter.name, sink_filter.type)]
            waiting = outbox.pending(
                self.status.history or (), sink_filter, after=sink.delivered_sequence
            )
            assert {entry.sequence for entry in waiting} == owed
            assert sink.pending == len(owed)
            if not owed:
                assert sink.delivered_sequence == self.status.sequence
                assert sink.last_error is None
        for sink in before.sinks or ():
            now = cursors.get((sink.name, sink.type))
            assert now is None or now.delivered_sequence >= sink.delivered_sequence
        assert change.dropped == dropped
        if lost:
            self.dropped += len(lost)
            newest = change.entries[-1]
            assert newest.type is HistoryType.DROPPED
            first, last = map(int, (newest.from_ or "").split("-"))
            assert first <= min(lost)
            assert max(lost) <= last
        delivered = find(self.status.conditions, ConditionType.DELIVERED)
        assert delivered is not None
        assert (delivered.status is ConditionStatus.TRUE) is not any(self.owed.values())

    def _check_replay(self) -> None:
        present = self.status.state is InventoryState.PRESENT
        here = {key(gpu) for gpu in self.status.gpus or ()} if present else set()
        assert replay(self.books.values()) == here
        assert replay(self.status.history or ()) == here

    def _check_quarantines(self, change: StatusChange) -> None:
        """Each mark has an entry, and marks are those of the quarantines in force."""
        marks = marks_of(self.status)
        told = replay_quarantines(self.books.values())
        named = {name: names for name, names in marks.items() if name[0] == "uuid"}
        assert named == {name: told[name] for name in told if name[0] == "uuid"}
        condition = find(self.status.conditions, ConditionType.QUARANTINED)
        assert (condition is not None and condition.status is ConditionStatus.TRUE) is bool(marks)
        if self.status.state is InventoryState.DEPARTED:
            assert not marks
        elif self.context.quarantines is not None:
            index = self.context.quarantines
            for gpu in self.status.gpus or ():
                listed = {
                    rule.name
                    for rule in index.rules.values()
                    if any(lists(part, gpu) for part in rule.parts)
                    and (rule.until is None or rule.until > self.now)
                }
                assert set(gpu.quarantines or ()) - index.unreadable == listed
        else:
            quarantine = {HistoryType.GPU_QUARANTINED, HistoryType.GPU_RELEASED}
            assert not quarantine & {entry.type for entry in change.entries}

    def _check_bounds(self) -> None:
        kept = self.status.history or ()
        assert len(kept) <= self.max_history
        waiting = set().union(*self.owed.values())
        types = [entry.type for entry in kept if entry.sequence in waiting]
        assert types.count(HistoryType.SIGHTED) <= history.MAX_UNDELIVERED_SIGHTED
        assert [entry.type for entry in kept].count(HistoryType.DROPPED) <= 1
        # The status reads back from JSON as it was decided, within all bounds.
        assert InventoryStatus.model_validate(self.status.to_json()) == self.status
        names = labels.lookup_labels(self.status)
        assert list(names.values()).count(labels.PAST) <= labels.MAX_PAST
        assert all(len(name.partition("/")[2]) <= 63 for name in names)


def replay(entries: Iterable[HistoryEntry]) -> set[Key]:
    """The GPUs that must be there after these entries.

    A GPU that could not be identified when it was added is added again once it can be.
    """
    here: dict[Key, str | None] = {}
    for entry in entries:
        if entry.type is HistoryType.GPU_ADDED:
            for name in [
                n for n, place in here.items() if n[0] != "uuid" and place == entry.pci_address
            ]:
                del here[name]
            here[key(entry)] = entry.pci_address
        elif entry.type is HistoryType.GPU_REMOVED:
            here.pop(key(entry), None)
    return set(here)


def lists(part: Identifiers, gpu: GPU) -> bool:
    """Whether a quarantine with this part lists the GPU."""
    pairs = zip(part, (gpu.uuid, gpu.serial, gpu.chassis_serial), strict=True)
    return any(wanted is not None and wanted == value for wanted, value in pairs)


def marks_of(found: InventoryStatus) -> dict[Key, set[str]]:
    """The names of quarantines that each GPU has."""
    return {key(gpu): set(gpu.quarantines) for gpu in found.gpus or () if gpu.quarantines}


def replay_quarantines(entries: Iterable[HistoryEntry]) -> dict[Key, set[str]]:
    """The names that the GPUs must have after these entries."""
    marks: dict[Key, set[str]] = {}
    for entry in entries:
        names = marks.setdefault(key(entry), set())
        if entry.type is HistoryType.GPU_QUARANTINED:
            assert entry.to is not None and entry.to not in names
            names.add(entry.to)
        elif entry.type is HistoryType.GPU_RELEASED:
            if key(entry)[0] == "uuid":
                assert entry.from_ in names
            names.discard(entry.from_ or "")
        elif entry.type is HistoryType.GPU_REMOVED:
            names.clear()
    return {name: names for name, names in marks.items() if names}
