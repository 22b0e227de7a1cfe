"""The engine as a whole on the fake API server."""

from __future__ import annotations

import pytest

from tests.support.engines import Fleet, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_node, put_pod
from tests.support.smi_fixtures import machine, serials


@pytest.fixture
def xml(kube: FakeKube) -> str:
    xml = machine("n1")
    kube.exec.answer = ExecAnswer(stdout=xml.encode())
    return xml


async def test_a_node_is_read_and_its_history_delivered(kube: FakeKube, xml: str) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    fleet = Fleet(kube)
    await fleet.engine.start()
    await until(lambda: len(fleet.records) == 2)
    assert sorted(record["gpu"] for record in fleet.records) == sorted(serials(xml))
    await until(lambda: kube.objects[inventory_path("n1")]["status"]["sinks"][0]["pending"] == 0)
    assert kube.objects[inventory_path("n1")]["status"]["gpuCount"] == 2
    await fleet.engine.stop(within=10)
