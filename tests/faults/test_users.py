"""Users who edit or delete what the operator wrote."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuid_operator.api.inventory import InventoryStatus
from tests.faults.campaign import WHOLE, Figures
from tests.support import clock
from tests.support.bystander import NODE, World, world
from tests.support.engines import until
from tests.support.objects import inventory_path
from tests.support.schema_strategies import schema_of, values

STATUS = schema_of("GPUInventory", "status")
Row = Callable[[str], Figures]


@st.composite
def edits(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a status and their new values; None deletes one."""
    fields = draw(values(STATUS))
    kept = draw(st.sets(st.sampled_from(sorted(STATUS["properties"])), min_size=1, max_size=4))
    return {name: fields.get(name) for name in kept}


def apply(body: dict[str, Any], edit: dict[str, Any]) -> None:
    status = body.setdefault("status", {})
    for name, value in edit.items():
        if value is None:
            status.pop(name, None)
        else:
            status[name] = copy.deepcopy(value)


def test_edited_statuses(figures: Row) -> None:
    row = figures("edited statuses")

    @settings(
        max_examples=3000 if WHOLE else 60,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(edits())
    def edited(edit: dict[str, Any]) -> None:
        async def play() -> None:
            async with world() as made:
                row.injected += 1
                await meddle(made, edit)
            row.survived += 1

        clock.run(play())

    edited()


async def meddle(made: World, edit: dict[str, Any]) -> None:
    """Edit the status of a node as a user does. It is right again after the next read, or an Event
    says that the operator cannot parse it."""
    path = inventory_path(NODE)
    made.kube.change(path, lambda body: apply(body, edit))
    await asyncio.sleep(60)
    if not is_parsed(made.kube.objects[path]["status"]):
        await until(lambda: says_not_understood(made))
        made.kube.change(path, lambda body: body.pop("status"))
    await made.is_working(NODE)


def is_parsed(status: dict[str, Any]) -> bool:
    try:
        InventoryStatus.model_validate(status)
    except ValidationError:
        return False
    return True


def says_not_understood(made: World) -> bool:
    posts = made.kube.asked("POST", "/events$")
    return any(post.body["reason"] == "NotUnderstood" for post in posts)
