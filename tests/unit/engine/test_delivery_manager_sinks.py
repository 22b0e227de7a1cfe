"""Sinks that share a name, and sinks that come, change and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy
from gpuid_operator.api.sinks import Sink
from gpuid_operator.engine.delivery import manager
from gpuid_operator.engine.delivery.manager import PRUNE_DELAY
from gpuid_operator.plan import status as plan
from gpuid_operator.sinks import base, registry
from tests.support import clock
from tests.support.deliveries import Deliveries, sink
from tests.support.engines import until
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path


async def test_sinks_with_the_same_name_and_different_specs_are_separate(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    other = sink("cmdb", http={"url": "https://other/in"})
    world.put("n2", 1, spec={"sinks": [other.to_json()]})
    world.deliver("n1", "n2")
    await until(lambda: world.cursor("n1", "cmdb") and world.cursor("n2", "cmdb"))
    assert sorted(world.http.hosts) == ["cmdb", "other"]


async def test_only_a_sink_of_the_environment_gets_its_secrets(kube: FakeKube) -> None:
    token = {"tokenSecretRef": {"name": "environment", "key": "token"}}
    spec = sink("cmdb", http={"url": "https://cmdb/in", **token})
    world = Deliveries(kube, spec)
    world.put_policy("fleet", spec)
    world.put("n1", 1)
    world.put("n2", 1, policy="fleet")
    world.deliver("n1", "n2")
    await until(lambda: world.cursor("n1", "cmdb") and world.cursor("n2", "cmdb"))
    assert {post.token for post in world.http.posts} == {
        "Bearer of-the-environment",
        "Bearer of-the-cluster",
    }


async def test_only_a_sink_of_the_environment_counts_as_built_in(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, bool] = {}

    def open_sink(spec: Sink, *, builtin: bool, **rest: Any) -> base.Sink:
        opened[spec.name] = builtin
        return registry.open_sink(spec, builtin=builtin, **rest)

    monkeypatch.setattr(manager, "open_sink", open_sink)
    world = Deliveries(kube, sink("cmdb"))
    world.put_policy("fleet", sink("audit"))
    world.put("n1", 1)
    world.put("n2", 1, policy="fleet")
    world.put("n3", 1, spec={"sinks": [sink("own").to_json()]})
    world.deliver("n1", "n2", "n3")
    await until(lambda: len(world.http.posts) == 3)
    assert opened == {"cmdb": True, "audit": False, "own": False}


async def test_a_cursor_of_another_type_belongs_to_another_sink(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    cursors = [{"name": "cmdb", "type": "stdout", "deliveredSequence": 2, "pending": 0}]
    world.put("n1", 2, status={"sinks": cursors})
    world.deliver("n1")
    await until(lambda: world.status("n1")["sinks"][0]["type"] == "http")
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    assert len(world.http.posts) == 1


async def test_a_new_sink_gets_the_whole_history(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 2)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    world.kube.change(
        inventory_path("n1"), lambda body: body["spec"].update(sinks=[sink("audit").to_json()])
    )
    world.take("n1")
    await world.status_writer.write(
        "n1",
        lambda previous, context: plan.reconsidered(previous, now=clock.now(), context=context),
    )
    await until(lambda: world.cursor("n1", "audit") == 2)
    assert [(post.host, len(post.ids)) for post in world.http.posts] == [
        ("cmdb", 2),
        ("audit", 2),
    ]


async def settle(world: Deliveries, node: str, **spec: Any) -> None:
    """Give an inventory this spec, and write the status that follows from it."""
    world.kube.change(inventory_path(node), lambda body: body.update(spec=spec))
    world.take(node)
    await world.status_writer.write(node, partial(plan.reconsidered, now=clock.now()))
    world.deliver(node)


async def test_a_node_that_left_a_sink_and_comes_back_is_new_to_it(kube: FakeKube) -> None:
    """Another node still uses the sink, so that its worker stays."""
    world = Deliveries(kube)
    spec = {"sinks": [sink("cmdb").to_json()]}
    for node in ("n1", "n2"):
        world.put(node, 2, spec=spec)
    world.deliver("n1", "n2")
    await until(lambda: world.cursor("n1", "cmdb") == world.cursor("n2", "cmdb") == 2)
    await settle(world, "n1")
    assert world.cursor("n1", "cmdb") is None
    await settle(world, "n1", **spec)
    assert world.cursor("n1", "cmdb") == 0
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    first, second = world.http.posts
    assert second.ids == first.ids[:2]
    assert world.status("n1")["sinks"][0]["pending"] == 0


async def test_records_whose_cursor_could_not_be_written_are_sent_again(kube: FakeKube) -> None:
    world = Deliveries(kube)
    world.put_policy("fleet", sink("cmdb"))
    world.put("n1", 2, policy="fleet")
    world.idle_gate.update(1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    world.state.policies.put(Policy(name="fleet", fault="spec: invalid"))
    world.idle_gate.update(0)
    await asyncio.sleep(60)
    assert world.writes() == 0
    world.put_policy("fleet", sink("cmdb"))
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2)


async def test_the_worker_of_a_sink_that_applies_nowhere_ends(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put_policy("fleet", sink("audit"))
    world.put("n1", 1, policy="fleet")
    world.http.answer = lambda _: 503
    world.deliver("n1")
    await until(lambda: world.error("n1", "audit"))
    world.put_policy("fleet")
    attempts = len(world.http.posts)
    await world.delivery.prune()
    assert world.count("gpuid_delivery_failures_total", "audit") is None
    await asyncio.sleep(7200)
    assert len(world.http.posts) == attempts


class TestPruneInTurns:
    """Between two inventories anything can happen."""

    @pytest.fixture
    async def world(self, kube: FakeKube, short_turns: None) -> Deliveries:
        """Three nodes, of which n1 has a sink of its own that fails; then n1 has it no more."""
        world = Deliveries(kube, sink("cmdb"))
        world.http.answer = lambda _: 503
        world.put("n1", 1, spec={"sinks": [sink("audit").to_json()]})
        for node in ("n2", "n3"):
            world.put(node, 1)
        world.deliver("n1", "n2", "n3")
        await until(lambda: world.error("n1", "audit"))
        self.set_sinks(world)
        return world

    def set_sinks(self, world: Deliveries, *names: str) -> None:
        sinks = [sink(name).to_json() for name in names]
        world.kube.change(inventory_path("n1"), lambda body: body["spec"].update(sinks=sinks))
        world.take("n1")

    async def prune_beside(self, world: Deliveries, change: Callable[[], None]) -> None:
        """Prune; n1 is looked at before the change and n3 after it."""
        prune = asyncio.create_task(world.delivery.prune())
        for _ in range(2):
            await asyncio.sleep(0)
        assert not prune.done()
        change()
        await prune

    def fails(self, world: Deliveries) -> float | None:
        return world.count("gpuid_delivery_failures_total", "audit")

    async def test_the_sink_ends(self, world: Deliveries) -> None:
        await self.prune_beside(world, lambda: None)
        assert self.fails(world) is None

    async def test_a_sink_that_gets_a_node_meanwhile_goes_on(self, world: Deliveries) -> None:
        def change() -> None:
            self.set_sinks(world, "audit")
            world.deliver("n1")

        await self.prune_beside(world, change)
        assert self.fails(world) is not None

    async def test_a_change_of_what_is_in_force_is_decided_by_the_next_prune(
        self, world: Deliveries
    ) -> None:
        """The caller enqueues the nodes, but one may wait for its turn longer than the prune."""
        await world.delivery.prune()
        world.put_policy("fleet", sink("audit"))
        world.put("n0", 1, policy="fleet")
        names = [cached.name for cached in world.state.inventories]
        for name in names[:-1]:  # n0 is looked at first
            world.state.inventories.remove(name)
            world.put(name, 1)
        world.deliver("n0")
        await until(lambda: world.error("n0", "audit"))
        world.put_policy("fleet")

        def change() -> None:
            world.put_policy("fleet", sink("audit"))
            world.delivery.prune_soon()

        await self.prune_beside(world, change)
        await asyncio.sleep(2 * PRUNE_DELAY)
        assert self.fails(world) is not None
        world.put_policy("fleet")
        world.delivery.prune_soon()
        await asyncio.sleep(2 * PRUNE_DELAY)
        assert self.fails(world) is None


async def test_a_sink_whose_spec_changed_keeps_its_metrics(kube: FakeKube) -> None:
    world = Deliveries(kube)
    world.put_policy("fleet", sink("cmdb"))
    world.put("n1", 1, policy="fleet")
    world.http.answer = lambda post: 503 if post.host == "cmdb" else 200
    world.deliver("n1")
    await until(lambda: world.error("n1", "cmdb"))
    world.put_policy("fleet", sink("cmdb", http={"url": "https://other/in"}))
    world.deliver("n1")
    await world.delivery.prune()
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert world.http.hosts[-1] == "other"
    assert world.count("gpuid_records_delivered_total", "cmdb") == 1
    assert world.count("gpuid_delivery_failures_total", "cmdb") == 3


async def test_changes_of_many_inventories_share_a_prune(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    nodes = [f"n{number}" for number in range(50)]
    for node in nodes:
        world.put(node, 1, spec={"sinks": [sink("audit").to_json()]})
    world.http.answer = lambda _: 503
    world.deliver(*nodes)
    await until(lambda: world.error("n1", "audit"))
    prunes: list[float] = []
    prune = world.delivery.prune

    async def counted() -> None:
        prunes.append(asyncio.get_running_loop().time())
        await prune()

    monkeypatch.setattr(world.delivery, "prune", counted)
    for node in nodes:
        world.kube.change(inventory_path(node), lambda body: body["spec"].update(sinks=[]))
        world.take(node)
        world.delivery.prune_soon()
    await until(lambda: world.count("gpuid_delivery_failures_total", "audit") is None)
    await asyncio.sleep(2 * PRUNE_DELAY)
    assert len(prunes) == 1
    world.delivery.prune_soon()
    await asyncio.sleep(2 * PRUNE_DELAY)
    assert len(prunes) == 2


async def test_a_batch_is_not_sent_again_to_a_sink_that_no_longer_applies(kube: FakeKube) -> None:
    """Even before its worker is pruned."""
    world = Deliveries(kube)
    world.put_policy("fleet", sink("cmdb"))
    world.put("n1", 1, policy="fleet")
    world.put("n2", 1, policy="fleet", spec={"sinks": [sink("cmdb").to_json()]})
    world.http.answer = lambda _: 503 if len(world.http.posts) == 1 else 200
    world.http.until = asyncio.Event()
    world.deliver("n1", "n2")
    await until(lambda: world.http.posts)
    world.put_policy("fleet")
    world.http.until.set()
    await until(lambda: world.cursor("n2", "cmdb") == 1)
    assert [len(post.ids) for post in world.http.posts] == [2, 1]
    assert world.cursor("n1", "cmdb") is None


async def test_a_sink_that_no_longer_applies_gathers_nothing(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put_policy("fleet", sink("audit"))
    world.put("n1", 1, policy="fleet")
    world.put("n2", 1)
    world.deliver("n1", "n2")
    world.put_policy("fleet")
    await until(lambda: world.cursor("n2", "cmdb") == 1)
    assert world.http.hosts == ["cmdb"]


async def test_pending_records_are_counted_per_sink(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    for node, pending in (("n1", 3), ("n2", 4)):
        waits = {"name": "cmdb", "type": "http", "deliveredSequence": 0, "pending": pending}
        done = {"name": "lake", "type": "s3", "deliveredSequence": 9, "pending": 0}
        world.put(node, 9, status={"sinks": [waits, done]})
    world.delivery.count_pending()
    assert world.count("gpuid_records_pending", "cmdb") == 7
    assert world.count("gpuid_records_pending", "lake") == 0


async def test_a_sink_that_no_status_names_yet_has_zero_pending_records(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.deliver("n1")
    world.delivery.count_pending()
    assert world.count("gpuid_records_pending", "cmdb") == 0
