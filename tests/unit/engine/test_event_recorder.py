"""Events are posted in the background, a few at a time, up to a limit."""

from __future__ import annotations

import asyncio

import pytest

from gpuid_operator.engine.writing import event_recorder as event_posts
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.kube.events import EventType
from tests.support.kube import EVENTS, FakeKube, server_error

POSTERS = 4


@pytest.fixture
def recorder(kube: FakeKube) -> EventRecorder:
    return EventRecorder(kube)


def post(recorder: EventRecorder, *names: str) -> None:
    for name in names:
        recorder.post(name, f"uid-{name}", reason="GPULost", message="!", type=EventType.WARNING)


def posted(kube: FakeKube) -> list[str]:
    return [one.body["involvedObject"]["name"] for one in kube.asked("POST", EVENTS)]


async def test_an_event_names_the_inventory(kube: FakeKube, recorder: EventRecorder) -> None:
    post(recorder, "n1")
    assert await recorder.finish(within=10)
    (request,) = kube.asked("POST", EVENTS)
    assert request.body["involvedObject"] == {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "name": "n1",
        "uid": "uid-n1",
    }
    assert (request.body["type"], request.body["reason"]) == ("Warning", "GPULost")


async def test_all_events_are_posted_a_few_at_a_time(
    kube: FakeKube, recorder: EventRecorder
) -> None:
    go = asyncio.Event()
    kube.fail("POST", EVENTS, until=go, times=POSTERS)
    names = [f"n{number}" for number in range(50)]
    post(recorder, *names)
    await asyncio.sleep(60)
    assert posted(kube) == names[:POSTERS]
    go.set()
    assert await recorder.finish(within=10)
    assert posted(kube) == names
    post(recorder, "later")
    assert await recorder.finish(within=10)
    assert posted(kube)[-1] == "later"


async def test_a_failed_event_does_not_stop_the_others(
    kube: FakeKube, recorder: EventRecorder
) -> None:
    kube.fail("POST", EVENTS, server_error(), times=5)
    names = [f"n{number}" for number in range(20)]
    post(recorder, *names)
    assert await recorder.finish(within=10)
    assert posted(kube) == names
    assert len(kube.objects) == 15


async def test_events_beyond_the_limit_are_dropped(
    kube: FakeKube, recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_posts, "_MAX_WAITING", 10)
    go = asyncio.Event()
    kube.fail("POST", EVENTS, until=go, times=POSTERS)
    post(recorder, *(f"first-{number}" for number in range(POSTERS)))
    await asyncio.sleep(1)  # their requests have started, so they do not wait any more
    post(recorder, *(f"second-{number}" for number in range(12)))
    go.set()
    assert await recorder.finish(within=10)
    assert len(posted(kube)) == POSTERS + 10
    assert "second-9" in posted(kube)
    assert "second-10" not in posted(kube)


async def test_finish_abandons_events_that_take_too_long(
    kube: FakeKube, recorder: EventRecorder
) -> None:
    kube.fail("POST", EVENTS, until=asyncio.Event(), times=POSTERS)
    post(recorder, *(f"n{number}" for number in range(10)))
    assert not await recorder.finish(within=10)
    assert len(posted(kube)) == POSTERS
    assert kube.objects == {}
    # The recorder can be used again.
    post(recorder, "later")
    assert await recorder.finish(within=10)
    assert "later" in posted(kube)
