"""GPUs that move through a few machines: what nvidia-smi prints there, and what history must say.

A machine is a value. `changes` compares the same node before and after, without the operator's own
code, so that it can judge what the operator wrote.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from gpuid_operator.localcluster.smi_models import MODELS
from tests.support.smi_fixtures import bodies, lost, machine, serials, uuids, with_bodies

DRIVERS: Final = ("550.54.15", "570.86.15", "580.65.06", "595.45.04", "615.21.04")

Changes = Counter[tuple[str, str]]
"""How often which type of entry is about which UUID; "" for the node as a whole."""

JUDGED: Final = frozenset(
    {
        "GPUAdded",
        "GPURemoved",
        "GPUMoved",
        "GPULost",
        "GPURecovered",
        "GPUChanged",
        "HealthChanged",
        "DriverChanged",
        "MachineChanged",
        "NodeDeparted",
        "NodeReturned",
    }
)
"""The types that `changes` knows. No GPU of these machines is flashed or gets ill, so that each
GPUChanged and HealthChanged is made up."""


@dataclass(frozen=True, slots=True)
class Part:
    """A GPU: the one that left the factory in a machine `origin`, at `index`."""

    model: str
    origin: str
    index: int

    @property
    def uuid(self) -> str:
        return uuids(_body(self, DRIVERS[0]))[0]

    @property
    def serial(self) -> str:
        return serials(_body(self, DRIVERS[0]))[0]


@cache
def _body(part: Part, driver: str) -> str:
    xml = machine(part.origin, gpus=part.index + 1, model=part.model, driver=driver)
    return bodies(xml)[part.index]


@dataclass(frozen=True, slots=True)
class Seat:
    """A GPU in a PCI slot."""

    part: Part
    address: str
    lost: bool = False

    def body(self, driver: str) -> str:
        text = _body(self.part, driver)
        address = re.search(r'<gpu id="([^"]*)"', text)
        assert address is not None
        return text.replace(address[1], self.address)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine behind a node name."""

    model: str
    number: int
    """Another number is another machine."""
    boot: int
    driver: str
    seats: tuple[Seat, ...]

    def xml(self, *, without: str = "") -> bytes:
        """What nvidia-smi prints, in PCI order; `without` is a UUID that it leaves out."""
        here = [seat for seat in self.seats if seat.part.uuid != without]
        seats = sorted(here, key=lambda seat: seat.address)
        text = with_bodies(
            machine("head", gpus=1, model=self.model, driver=self.driver),
            [seat.body(self.driver) for seat in seats],
        )
        for index, seat in enumerate(seats):
            if seat.lost:
                text = lost(text, index)
        return text.encode()

    @property
    def parts(self) -> dict[str, Seat]:
        return {seat.part.uuid: seat for seat in self.seats}

    @property
    def free(self) -> list[str]:
        """The PCI addresses without a GPU."""
        addresses = [f"{bus}.0" for bus in MODELS[self.model].buses]
        return sorted({*addresses, *_MORE} - {seat.address for seat in self.seats})


_MORE: Final = ("00000000:E1:00.0", "00000000:E2:00.0")


def changes(before: Machine | None, after: Machine | None, *, returns: bool = False) -> Changes:
    """What history has to say of a node; None is a node that is not there."""
    old = before.parts if before else {}
    new = after.parts if after else {}
    said: Changes = Counter()
    if before and not after:
        said["NodeDeparted", ""] += 1
    if after and not before and returns:
        said["NodeReturned", ""] += 1
    if before and after:
        said["MachineChanged", ""] += before.number != after.number
        said["DriverChanged", ""] += before.driver != after.driver
    for uuid in old.keys() - new.keys():
        said["GPURemoved", uuid] += 1
    for uuid, seat in new.items():
        was = old.get(uuid)
        if was is None:
            said["GPUAdded", uuid] += 1
            said["GPULost", uuid] += seat.lost
        else:
            said["GPUMoved", uuid] += was.address != seat.address
            said["GPULost", uuid] += seat.lost and not was.lost
            said["GPURecovered", uuid] += was.lost and not seat.lost
    return +said


_WORK: Final = (
    *("lose", "recover", "move", "exchange", "swap", "replace", "replace twin", "remove"),
    *("insert", "insert", "driver", "reboot", "other machine", "leave"),
)


class Technicians:
    """People and physics: they change machines at random."""

    def __init__(self, rng: random.Random, models: dict[str, str]) -> None:
        """`models`: the model of each node."""
        self._rng = rng
        self._models = models
        self._made = 0
        self._shelf: list[Part] = []
        self.fleet: dict[str, Machine | None] = {node: self._machine(node) for node in models}

    def work(self) -> None:
        """A few changes of the fleet; at times none."""
        for _ in range(self._rng.choice((0, 1, 1, 2, 3))):
            node = self._rng.choice(sorted(self.fleet))
            here = self.fleet[node]
            if here is None:
                self.fleet[node] = self._rng.choice((None, self._machine(node)))
            else:
                self._change(node, here)

    def _change(self, node: str, here: Machine) -> None:
        what = self._rng.choice(_WORK)
        seats = list(here.seats)
        at = self._rng.randrange(len(seats)) if seats else 0
        match what:
            case "lose" | "recover" if seats:
                seats[at] = replace(seats[at], lost=what == "lose")
            case "move" if seats and here.free:
                seats[at] = replace(seats[at], address=self._rng.choice(here.free))
            case "exchange" if len(seats) > 1:
                one, other = seats[at], seats[at - 1]
                seats[at] = replace(one, address=other.address)
                seats[at - 1] = replace(other, address=one.address)
            case "swap" if seats:
                self._swap(node, at)
                return
            case "replace" if seats:
                self._shelf.append(seats[at].part)
                seats[at] = Seat(self._part(here.model), seats[at].address)
            case "replace twin" if seats:
                # Another GPU with the serial of the same board, where the model has two on one.
                twin = replace(seats[at].part, index=seats[at].part.index ^ 1)
                if not any(twin in map(_part_of, one.seats) for one in self._present()):
                    self._shelf = [*(p for p in self._shelf if p != twin), seats[at].part]
                    seats[at] = Seat(twin, seats[at].address)
            case "remove" if seats:
                self._shelf.append(seats.pop(at).part)
            case "insert" if here.free:
                found = next((part for part in self._shelf if part.model == here.model), None)
                if found is not None:
                    self._shelf.remove(found)
                part = found or self._part(here.model)
                seats.append(Seat(part, self._rng.choice(here.free)))
            case "driver":
                here = replace(here, driver=self._rng.choice(DRIVERS))
            case "reboot":
                here = replace(here, boot=here.boot + 1)
            case "other machine":
                # The parts stay or go with it.
                self._made += 1
                here = replace(here, number=self._made)
                if self._rng.random() < 0.5:
                    self._shelf += [seat.part for seat in seats]
                    seats = list(self._machine(node).seats)
            case "leave":
                self._shelf += [seat.part for seat in seats]
                self.fleet[node] = None
                return
        self.fleet[node] = replace(here, seats=tuple(seats))

    def _swap(self, node: str, at: int) -> None:
        """Exchange a GPU with one of another node of the same model."""
        here = self.fleet[node]
        assert here is not None
        others = [
            (name, one)
            for name, one in self.fleet.items()
            if one is not None and name != node and one.model == here.model and one.seats
        ]
        if not others:
            return
        name, there = self._rng.choice(others)
        mine, theirs = list(here.seats), list(there.seats)
        part = mine[at].part
        mine[at] = replace(mine[at], part=theirs[0].part)
        theirs[0] = replace(theirs[0], part=part)
        self.fleet[node] = replace(here, seats=tuple(mine))
        self.fleet[name] = replace(there, seats=tuple(theirs))

    def _present(self) -> Sequence[Machine]:
        return [one for one in self.fleet.values() if one is not None]

    def _part(self, model: str) -> Part:
        self._made += 1
        return Part(model, f"spare-{self._made}", 0)

    def _machine(self, node: str) -> Machine:
        self._made += 1
        model = self._models[node]
        return Machine(
            model=model,
            number=self._made,
            boot=self._made,
            driver=DRIVERS[1],
            seats=tuple(
                Seat(Part(model, f"{node}-{self._made}", index), f"{bus}.0")
                for index, bus in enumerate(MODELS[model].buses[:4])
            ),
        )


def _part_of(seat: Seat) -> Part:
    return seat.part
