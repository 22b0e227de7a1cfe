"""Whether a node has what its policy expects: the condition AsExpected and its history entries.

The rows are tried from top to bottom:

the policy expects | the inventory                                  | status   | reason
-------------------|------------------------------------------------|----------|--------------
nothing            | any                                            | no condition
anything           | departed, and had no such condition            | no condition
anything           | departed                                       | Unknown  | NodeDeparted
anything           | no successful read yet                         | Unknown  | NotRead
`gpus`             | fewer GPUs, lost ones included                 | False    | TooFewGPUs
`gpus`             | more GPUs                                      | False    | TooManyGPUs
`products`         | a GPU of another product                       | False    | OtherProduct
`drivers`          | another driver version                         | False    | OtherDriver
anything           | nvidia-smi did not report an expected fact     | as before, or Unknown, NotRead
anything           | any other                                      | True     | AsExpected

The message names every row that fails, not only the first. A fact that nvidia-smi does not report
for a moment neither fails an expectation nor meets it.

The history gets an entry on each change of status and reason:

before                  | now                      | entry
------------------------|--------------------------|------------------
any                     | False, with its reason   | none
any                     | False, another reason    | ExpectationFailed
False, or NodeDeparted  | True                     | ExpectationMet
False                   | no condition             | ExpectationMet
any                     | any other                | none
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gpuid_operator.api.inventory import GPU, ConditionStatus, HistoryEntry, HistoryType
from gpuid_operator.api.policy import Expectation
from gpuid_operator.api.values import truncate
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, NODE_GONE, ConditionUpdate
from gpuid_operator.plan.diff import HistoryWriter

_NOTHING: Final = Expectation()
_NOT_READ: Final = ConditionUpdate(ConditionStatus.UNKNOWN, "NotRead", "no successful read yet")
_AS_EXPECTED: Final = ConditionUpdate(ConditionStatus.TRUE, "AsExpected")
_JUDGED: Final = (ConditionStatus.TRUE, ConditionStatus.FALSE)


@dataclass(frozen=True, slots=True)
class Hardware:
    """The facts of a node that a policy can expect."""

    gpus: int
    """Number of GPUs, including lost ones."""
    products: tuple[str | None, ...]
    """The unique product names, sorted; None stands for GPUs whose product is not known."""
    driver: str | None

    @classmethod
    def of(cls, gpus: Iterable[GPU] | None, driver: str | None) -> Hardware | None:
        """The facts of these GPUs; None before the first successful read."""
        if gpus is None:
            return None
        products = [gpu.product for gpu in gpus]
        return cls(len(products), tuple(sorted(set(products), key=lambda one: one or "")), driver)


def as_expected(
    expect: Expectation | None,
    hardware: Hardware | None,
    *,
    departed: bool,
    before: ConditionUpdate | None,
) -> ConditionUpdate | None:
    """The condition AsExpected, as the first table says; None for no condition."""
    if expect is None or expect == _NOTHING or (departed and before is None):
        return None
    if departed:
        return NODE_GONE
    if hardware is None:
        return _NOT_READ
    failures = _failures(expect, hardware)
    if failures:
        message = truncate("; ".join(failures.values()), MAX_CONDITION_MESSAGE)
        return ConditionUpdate(ConditionStatus.FALSE, next(iter(failures)), message)
    if unreported := _unreported(expect, hardware):
        if before is not None and before.status in _JUDGED:
            return before
        message = f"nvidia-smi did not report {unreported}"
        return ConditionUpdate(ConditionStatus.UNKNOWN, "NotRead", message)
    return _AS_EXPECTED


def _failures(expect: Expectation, hardware: Hardware) -> dict[str, str]:
    """The failures as messages by reason, in the order of the table."""
    failures = {}
    count = hardware.gpus
    if expect.gpus is not None and count < expect.gpus:
        verb = "is" if expect.gpus - count == 1 else "are"
        failures["TooFewGPUs"] = (
            f"{expect.gpus - count} of {expect.gpus} expected GPUs {verb} missing:"
            f" the node has {count}"
        )
    if expect.gpus is not None and count > expect.gpus:
        failures["TooManyGPUs"] = f"the node has {count} GPUs; expected: {expect.gpus}"
    wanted = expect.products
    if wanted and (others := [one for one in hardware.products if one and one not in wanted]):
        failures["OtherProduct"] = (
            f"the node has GPUs of product {', '.join(others)}; expected: {' or '.join(wanted)}"
        )
    if expect.drivers and hardware.driver and hardware.driver not in expect.drivers:
        failures["OtherDriver"] = (
            f"the node has driver {hardware.driver}; expected: {' or '.join(expect.drivers)}"
        )
    return failures


def _unreported(expect: Expectation, hardware: Hardware) -> str:
    """The expected facts that nvidia-smi did not report, in words."""
    missing = []
    if expect.products and None in hardware.products:
        missing.append("the product of every GPU")
    if expect.drivers and hardware.driver is None:
        missing.append("the driver version")
    return " and ".join(missing)


def expectation_entries(
    writer: HistoryWriter, *, before: ConditionUpdate | None, now: ConditionUpdate | None
) -> Iterator[HistoryEntry]:
    """The history entry about a change of AsExpected, if there is one by the second table."""
    failed = before is not None and before.status is ConditionStatus.FALSE
    was = before.reason if before is not None else None
    if now is None:
        if failed:
            message = "the policy expects nothing any more"
            yield writer.entry(HistoryType.EXPECTATION_MET, from_=was, message=message)
        return
    message = now.message or "the node is as expected"
    facts: dict[str, Any] = {"from_": was, "to": now.reason, "message": message}
    if now.status is ConditionStatus.FALSE and now.reason != was:
        yield writer.entry(HistoryType.EXPECTATION_FAILED, **facts)
    elif now.status is ConditionStatus.TRUE and (failed or was == NODE_GONE.reason):
        yield writer.entry(HistoryType.EXPECTATION_MET, **facts)
