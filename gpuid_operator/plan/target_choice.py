"""In which target a node is read, of those with a running container there.

The rows are tried for one container after the other, in the order of the targets:

the container                                              | action
-----------------------------------------------------------|------------------------------------
a read showed that it lacks nvidia-smi                     | try the next
the last good read was in it                               | use it
it is not ready                                            | try the next
it was there before the last good read, which was in       | try the next
another one, and this process has not tried the node yet   |
it comes after the target of the last good read, whose     | wait for that one
container has just gone or is new                          |
any other                                                  | use it

There is nothing to wait for once the new container of that target lacks nvidia-smi. If none is
used, the operator waits for the first that does not lack nvidia-smi to be ready. If all
lack it, the first is tried again.

So a target earlier in the list takes over when it is ready, one later in the list only when the
target in use is gone for good: a pod that is replaced must not move the node to pods that may see
less of it. After a restart of the operator, the status says which target works; the others are not
tried before a read is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from gpuid_operator.plan.failure import MAX_MESSAGE, FailureReason, ReadError, one_line

T = TypeVar("T")

_LEAST: Final = 60
"""Characters that a message says of each target at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Generic[T]):
    """A running container of a target on the node."""

    pod: T
    number: int
    """The number of its target, which is its rank."""
    ready: bool
    was_read: bool = False
    """Whether the last good read was in this container."""
    lacks_program: bool = False
    """Whether a read showed that it has no nvidia-smi."""
    older: bool = False
    """Whether it started before the last good read."""


def choose(
    candidates: Sequence[Candidate[T]],
    *,
    kept: int | None = None,
    waiting: bool = False,
    restarted: bool = False,
) -> Candidate[T] | None:
    """The container to read the node in, by the table above; None to wait, or if there is none.

    `candidates` are in the order of their targets. `kept` is the target of the last good read, if
    this process knows it, and `waiting` whether its container has just gone or is new. `restarted`
    is whether this process has not tried to read the node yet.
    """
    usable = [one for one in candidates if not one.lacks_program]
    waiting = waiting and not any(one.number == kept and one.lacks_program for one in candidates)
    trusted = restarted and any(one.was_read for one in usable)
    for one in usable:
        if one.was_read:
            return one
        if not one.ready or (trusted and one.older):
            continue
        if waiting and kept is not None and one.number > kept:
            break
        return one
    if waiting:
        return next((one for one in usable if one.number == kept), None)
    return next(iter(usable or candidates), None)


def no_program_error(missing: Sequence[str]) -> ReadError:
    """The failure of a node on which no target has nvidia-smi. `missing` says which target it is
    and why, in one line each."""
    several = len(missing) > 1
    head = f"none of {len(missing)} targets on this node has nvidia-smi: " if several else ""
    limit = max(_LEAST, (MAX_MESSAGE - len(head)) // len(missing) - len("; "))
    return ReadError(
        FailureReason.NVIDIA_SMI_NOT_FOUND,
        head + "; ".join(one_line(why, limit=limit) for why in missing),
    )
