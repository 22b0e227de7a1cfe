"""The reader reports failures with a reason, backs off, and never runs a command twice at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from tests.support import clock
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden, server_error
from tests.support.objects import inventory_path, node_path, put_node, put_pod, put_policy
from tests.support.smi_fixtures import machine
from tests.unit.engine.reading import ReadBench

NO_PROGRAM = 'exec: "nvidia-smi": executable file not found in $PATH: unknown'
NO_CONTAINER = 'container not found ("nvidia-device-plugin")'


@pytest.fixture
def bench(kube: FakeKube) -> ReadBench:
    bench = ReadBench(kube)
    bench.prints(machine("n1"))
    return bench


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (ExecAnswer(hang=True), "TimedOut", "did not end within 30 s"),
        (ExecAnswer(refusal=forbidden()), "Forbidden", "pods/exec"),
        (ExecAnswer(failure=NO_PROGRAM), "NvidiaSmiNotFound", "no such program"),
        (ExecAnswer(stdout=b"<?xml", cut=True), "Incomplete", "was interrupted after 5 bytes"),
        (ExecAnswer(stdout=b"x" * (2 * 1024 * 1024 + 1)), "Unparsable", "was stopped"),
        (ExecAnswer(stdout=b"<nvidia_smi_log><a></nvidia_smi_log>"), "Unparsable", "XML"),
        (ExecAnswer(stdout=b""), "Incomplete", "nvidia-smi"),
        (ExecAnswer(failure="cannot allocate memory"), "ExecFailed", "cannot allocate memory"),
        (
            ExecAnswer(
                stdout=b"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA"
                b" driver.",
                exit_code=9,
            ),
            "DriverNotLoaded",
            "driver",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_status_shows_the_reason_of_a_failure(
    bench: ReadBench, answer: ExecAnswer, reason: str, words: str
) -> None:
    bench.kube.exec.answer = answer
    await bench.node_with_pod()
    wait = await bench.process("n1")
    status, said, message = bench.ready()
    assert (status, said) == ("False", reason)
    assert words in message
    assert bench.reads(reason) == 1
    assert failed_exports(bench) == ['{node="n1",pod="plugin-n1"} 1']
    assert wait is not None
    assert timedelta(0) < wait <= timedelta(seconds=1)


def failed_exports(bench: ReadBench) -> list[str]:
    lines = bench.metrics.render()[1].decode().splitlines()
    name = "gpuid_export_failure_total"
    return [line.removeprefix(name) for line in lines if line.startswith(f"{name}{{")]


async def test_a_failure_is_no_failed_export_where_the_policy_has_sinks(bench: ReadBench) -> None:
    bench.see_policy(put_policy(bench.kube, "all", sinks=[]))
    bench.kube.exec.answer = ExecAnswer(exit_code=1)
    await bench.node_with_pod()
    await bench.process("n1")
    assert bench.ready()[0] == "False"
    assert failed_exports(bench) == []


async def test_a_failure_keeps_the_last_good_facts(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    bench.kube.exec.answer = ExecAnswer(cut=True)
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process("n1")
    assert bench.status()["gpuCount"] == 2
    assert bench.status()["source"]["containerID"] == "containerd://plugin-n1-1"
    assert bench.ready()[:2] == ("False", "Incomplete")


async def test_the_back_off_doubles_up_to_five_minutes(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.node_with_pod()
    for bound in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        wait = await bench.process("n1")
        assert wait is not None
        assert bound / 2 <= wait.total_seconds() <= bound
        await asyncio.sleep(wait.total_seconds())


async def test_a_good_read_ends_the_back_off(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.node_with_pod()
    wait = await bench.process("n1")
    assert wait is not None
    bench.prints(machine("n1"))
    await asyncio.sleep(wait.total_seconds())
    wait = await bench.process("n1")
    assert bench.ready()[:2] == ("True", "ReadOK")
    assert wait is not None
    assert wait > timedelta(hours=20)


async def test_another_container_does_not_inherit_the_back_off(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.node_with_pod()
    await bench.process_until("n1", lambda: len(bench.kube.exec.calls) == 6)
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    wait = await bench.process("n1")
    assert len(bench.kube.exec.calls) == 7
    assert wait is not None
    assert wait <= timedelta(seconds=1)


async def test_a_command_that_hangs_is_not_started_again_for_a_request(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(hang=True)
    await bench.node_with_pod()
    await bench.process_until("n1", lambda: len(bench.kube.exec.calls) == 5)
    assert bench.kube.exec.most == 1

    def ask(body: dict[str, dict[str, dict[str, str]]]) -> None:
        body["metadata"]["annotations"] = {REQUESTED_AT: "token-1"}

    bench.inventory_changed(bench.kube.change(inventory_path("n1"), ask))
    wait = await bench.process("n1")
    assert len(bench.kube.exec.calls) == 5
    assert wait is not None
    assert wait > timedelta(seconds=7)


class TestPodGone:
    """A pod that is gone is usually replaced, and the watch brings the next one."""

    async def test_only_the_third_time_is_a_failure(self, bench: ReadBench) -> None:
        bench.kube.exec.answer = ExecAnswer(failure=NO_CONTAINER)
        await bench.node_with_pod()
        for _ in range(2):
            wait = await bench.process("n1")
            assert inventory_path("n1") not in bench.kube.objects
            assert wait is not None
            await asyncio.sleep(wait.total_seconds())
        await bench.process("n1")
        assert bench.ready()[:2] == ("False", "ExecFailed")
        assert bench.reads("ExecFailed") == 3

    async def test_the_next_pod_is_read_and_no_failure_is_reported(self, bench: ReadBench) -> None:
        bench.kube.exec.answer = ExecAnswer(failure=NO_CONTAINER)
        await bench.node_with_pod()
        await bench.process("n1")
        bench.prints(machine("n1"))
        bench.see_pod(put_pod(bench.kube, "n1", number=2))
        await bench.process("n1")
        assert bench.ready()[:2] == ("True", "ReadOK")
        assert len(bench.kube.asked("PATCH", "/status$")) == 1


async def test_a_pod_on_a_node_that_does_not_exist_is_reported(bench: ReadBench) -> None:
    await asyncio.sleep(1)
    bench.see_pod(put_pod(bench.kube, "n1"))
    await bench.process("n1")
    status, reason, message = bench.ready()
    assert (status, reason) == ("False", "NodeNotFound")
    assert "n1" in message
    assert bench.kube.exec.calls == []
    assert "n1" not in bench.state.nodes


async def test_the_facts_of_a_node_that_vanished_are_dropped(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    await asyncio.sleep(1)
    bench.kube.remove(node_path("n1"))
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process("n1")
    assert bench.ready()[:2] == ("False", "NodeNotFound")
    assert "n1" not in bench.state.nodes


async def test_an_unreachable_api_server_is_not_a_failure_of_the_node(bench: ReadBench) -> None:
    await bench.node_with_pod()
    bench.kube.fail("GET", "/nodes/n1$", server_error())
    wait = await bench.process("n1")
    assert inventory_path("n1") not in bench.kube.objects
    assert bench.reads("Unreachable") == 1
    assert wait is not None
    await asyncio.sleep(wait.total_seconds())
    await bench.process("n1")
    assert bench.ready()[:2] == ("True", "ReadOK")


@pytest.mark.parametrize("days", [-1, 1])
async def test_no_second_command_joins_a_hung_one_when_the_clock_is_set(
    bench: ReadBench, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    bench.kube.exec.answer = ExecAnswer(hang=True)
    await bench.node_with_pod()
    wait = await bench.process("n1")
    assert wait is not None
    monkeypatch.setattr(clock, "START", clock.START + timedelta(days=days))
    assert await bench.process("n1") == pytest.approx(wait, abs=timedelta(milliseconds=1))
    assert len(bench.kube.exec.calls) == 1


async def test_the_first_failure_shows_the_machine_if_it_is_known(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.node_with_pod()
    await bench.process("n1")
    assert bench.status()["node"]["machine"] == "i-n1"


async def test_an_unknown_node_is_not_due(bench: ReadBench) -> None:
    put_node(bench.kube, "n1")
    assert bench.due("n1") is None
    await bench.node_with_pod("n1")
    due = bench.due("n1")
    assert due is not None
    assert due <= clock.now()
