"""Whatever happens to a node, its GPUs and its sinks: what must hold, holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuid_operator.plan import history
from tests.support.node_model import NodeModel
from tests.support.strategies import EVENTS, Event

# As many in proportion as the real ones, so that a short story reaches them all.
TIGHT = {
    "KEPT_IDENTITY": 8,
    "KEPT_OTHERS": 4,
    "KEPT_QUARANTINE": 3,
    "KEPT_SIGHTED": 2,
    "KEPT_DEPARTED_UUIDS": 6,
    "MAX_UNDELIVERED_SIGHTED": 4,
    "MAX_HISTORY": 32,
}


@given(EVENTS)
@settings(max_examples=300)
def test_every_story_keeps_the_promises(events: list[Event]) -> None:
    model = NodeModel()
    model.run(events)
    model.deliver_all()
    assert not any(model.owed.values())


@given(st.tuples(EVENTS, EVENTS, EVENTS))
@settings(max_examples=150)
def test_every_story_keeps_the_promises_at_the_bounds(stories: tuple[list[Event], ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TIGHT.items():
            patch.setattr(history, name, value)
        model = NodeModel(max_history=TIGHT["MAX_HISTORY"])
        for events in stories:
            model.run([("add", 0, 0), ("read", 0, 0), *events])
        model.deliver_all()
        assert not any(model.owed.values())


@given(EVENTS)
@settings(max_examples=40)
def test_the_same_story_ends_in_the_same_status(events: list[Event]) -> None:
    assert NodeModel().run(events).to_json() == NodeModel().run(events).to_json()
