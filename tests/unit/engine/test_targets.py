"""Several targets on a node: which one is read, what happens where one has no nvidia-smi, and what
the history says of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.errors import Forbidden
from gpuid_operator.plan.presets import expand
from gpuid_operator.plan.target import Target
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import NODES, FakeKube, forbidden
from tests.support.objects import inventory_path, pod_path, put_node, put_pod, put_policy
from tests.support.resource_slices import gpus, put_slice
from tests.support.smi_fixtures import machine, swapped

PLUGIN, DCGM, DRIVER = "nvidia-device-plugin", "nvidia-dcgm-exporter", "nvidia-driver-ctr"
LABELS = {
    PLUGIN: {"app": "nvidia-device-plugin-daemonset"},
    DCGM: {"app": "nvidia-dcgm-exporter"},
    DRIVER: {"app.kubernetes.io/component": "nvidia-driver"},
}
NO_PROGRAM = 'exec: "nvidia-smi": executable file not found in $PATH: unknown'
MISSING = ExecAnswer(failure=NO_PROGRAM)
TARGETS = expand("auto")


class Cluster:
    """A node with pods of presets, whose containers answer as a test says."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.answers: dict[str, ExecAnswer] = {}
        self.xml = machine("n1")
        kube.exec.decide = self._answer
        self.harness = self._engine()

    def _engine(self) -> EngineHarness:
        return EngineHarness(self.kube, targets=TARGETS)

    def _answer(self, call: ExecCall) -> ExecAnswer:
        return self.answers.get(call.container) or ExecAnswer(stdout=self.xml.encode())

    def pod(self, container: str, *, tell: bool = True, **fields: Any) -> dict[str, Any]:
        body = put_pod(
            self.kube, "n1", name=container, container=container, labels=LABELS[container], **fields
        )
        if tell:
            self.event(body)
        return body

    def event(self, body: dict[str, Any], *, deleted: bool = False) -> None:
        """The watch that has this pod brings an event of it."""
        key = next(iter(body["metadata"]["labels"]))
        (source,) = [
            one
            for one in self.harness.engine.sources
            if one.namespace == "gpu-operator" and re.split("[= ]", one.selector)[0] == key
        ]
        self.harness.engine.pod_event(source, body, deleted=deleted)

    def remove(self, container: str) -> None:
        body = self.kube.objects[pod_path(container)]
        self.kube.remove(pod_path(container))
        self.event(body, deleted=True)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.objects.get(inventory_path("n1"), {}).get("status", {})
        return found

    @property
    def source(self) -> str:
        return str(self.status.get("source", {}).get("container"))

    @property
    def history(self) -> list[str]:
        return [entry["type"] for entry in self.status["history"] if entry["type"] != "Sighted"]

    @property
    def ready(self) -> tuple[str, str, str]:
        for one in self.status.get("conditions", ()):
            if one["type"] == "Ready":
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    def calls(self) -> list[str]:
        """The containers of the execs since the last call."""
        made = [call.container for call in self.kube.exec.calls]
        self.kube.exec.calls.clear()
        return made

    async def start(self) -> None:
        await self.harness.engine.start()

    async def restart(self) -> None:
        """Another process takes over."""
        await self.harness.engine.stop(within=10)
        self.harness = self._engine()
        await self.start()

    async def read_in(self, container: str) -> None:
        await until(lambda: self.source == container and self.ready[0] == "True")

    async def request_read(self) -> None:
        """A user asks for a read, and it ends."""

        def annotate(body: dict[str, Any]) -> None:
            body["metadata"].setdefault("annotations", {})[REQUESTED_AT] = "now"

        self.harness.engine.inventory_changed(self.kube.change(inventory_path("n1"), annotate))
        await until(lambda: self.status.get("lastHandledRequest") == "now")


@pytest.fixture
def cluster(kube: FakeKube) -> Cluster:
    put_node(kube, "n1")
    return Cluster(kube)


async def test_the_first_that_has_nvidia_smi_is_used_and_kept(cluster: Cluster) -> None:
    for container in (DRIVER, PLUGIN, DCGM):
        cluster.pod(container, tell=False)
    cluster.answers = {DRIVER: MISSING}
    await cluster.start()
    await cluster.read_in(PLUGIN)
    assert cluster.calls() == [DRIVER, PLUGIN]
    cluster.pod(PLUGIN, number=2)
    await until(lambda: cluster.status["source"]["containerID"].endswith("-2"))
    await cluster.request_read()
    assert cluster.calls() == [PLUGIN, PLUGIN]
    assert cluster.history == ["GPUAdded", "GPUAdded"]


async def test_the_same_container_is_tried_with_the_other_command(cluster: Cluster) -> None:
    cluster.pod(PLUGIN, tell=False)

    def decide(call: ExecCall) -> ExecAnswer:
        return ExecAnswer(stdout=cluster.xml.encode()) if call.command[0] == "sh" else MISSING

    cluster.kube.exec.decide = decide
    await cluster.start()
    await cluster.read_in(PLUGIN)
    await cluster.request_read()
    assert [call.command[0] for call in cluster.kube.exec.calls] == ["nvidia-smi", "sh", "sh"]


@pytest.mark.parametrize(
    "answer",
    [
        MISSING,
        ExecAnswer(failure='exec: "sh": executable file not found in $PATH'),
        ExecAnswer(exit_code=127, stderr=b"nvidia-smi: not found with its libnvidia-ml.so.1"),
        ExecAnswer(exit_code=126, stderr=b"sh: cannot execute: Exec format error"),
    ],
    ids=["no program", "no shell", "127", "126"],
)
async def test_what_says_that_the_program_is_not_there(
    cluster: Cluster, answer: ExecAnswer
) -> None:
    cluster.pod(DRIVER, tell=False)
    cluster.pod(DCGM, tell=False)
    cluster.answers = {DRIVER: answer}
    await cluster.start()
    await cluster.read_in(DCGM)
    assert cluster.calls() == [DRIVER, DCGM]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ExecAnswer(hang=True), "TimedOut"),
        (
            ExecAnswer(
                exit_code=9,
                stdout=b"NVIDIA-SMI has failed because it couldn't communicate"
                b" with the NVIDIA driver.",
            ),
            "DriverNotLoaded",
        ),
        (ExecAnswer(stdout=b"<?xml ?><nvidia_smi_log>"), "Incomplete"),
        (ExecAnswer(refusal=forbidden()), "Forbidden"),
        (ExecAnswer(exit_code=1, stderr=b"no idea"), "ExecFailed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_any_other_failure_is_one_of_the_node(
    cluster: Cluster, answer: ExecAnswer, reason: str
) -> None:
    cluster.pod(DRIVER, tell=False)
    cluster.pod(PLUGIN, tell=False)
    cluster.answers = {DRIVER: answer}
    await cluster.start()
    await until(lambda: cluster.ready[1] == reason)
    await asyncio.sleep(600)
    assert set(cluster.calls()) == {DRIVER}


async def test_where_none_has_it_the_condition_says_why_of_each(cluster: Cluster) -> None:
    cluster.pod(DRIVER, tell=False)
    cluster.pod(DCGM, tell=False)
    cluster.answers = {DRIVER: MISSING, DCGM: ExecAnswer(exit_code=127, stderr=b"no libc")}
    await cluster.start()
    await until(lambda: cluster.ready[1] == "NvidiaSmiNotFound")
    message = cluster.ready[2]
    assert message.startswith(
        "none of 2 targets on this node has nvidia-smi: preset gpu-operator: `nvidia-smi -q -x` in"
        f" gpu-operator/{DRIVER}, container {DRIVER} cannot run: "
    )
    assert f"; preset dcgm-exporter in gpu-operator/{DCGM}, container {DCGM}: nvidia-smi" in message
    assert "no libc" in message
    assert cluster.calls() == [DRIVER, DCGM]
    # All are tried again, with a back-off.
    await asyncio.sleep(1)
    cluster.answers = {DRIVER: MISSING}
    await cluster.read_in(DCGM)
    assert len(cluster.calls()) <= 4


async def test_a_new_container_ends_the_back_off_of_targets_without_it(cluster: Cluster) -> None:
    cluster.pod(DRIVER, tell=False)
    cluster.answers = {DRIVER: MISSING}
    await cluster.start()
    await asyncio.sleep(7200)
    cluster.calls()
    before = asyncio.get_running_loop().time()
    cluster.pod(DCGM)
    await cluster.read_in(DCGM)
    assert asyncio.get_running_loop().time() - before < 1
    assert cluster.calls() == [DCGM]


async def test_a_new_container_of_the_target_in_use_without_it_gives_way(
    cluster: Cluster,
) -> None:
    cluster.pod(PLUGIN, tell=False)
    cluster.pod(DCGM, tell=False)
    await cluster.start()
    await cluster.read_in(PLUGIN)
    cluster.answers = {PLUGIN: MISSING}
    cluster.pod(PLUGIN, number=2)
    await cluster.read_in(DCGM)
    assert len(cluster.calls()) == 4  # once more in the plugin, for its second command


async def test_another_pod_of_the_same_target_is_tried(kube: FakeKube) -> None:
    """A selector may match the pods of two DaemonSets."""
    put_node(kube, "n1")
    for name, started in (("old", "2024-01-01T00:00:00Z"), ("new", "2024-01-02T00:00:00Z")):
        put_pod(kube, "n1", name=name, container="c", labels={"app": "x"}, started=started)
    xml = machine("n1").encode()
    kube.exec.decide = lambda call: MISSING if call.pod == "new" else ExecAnswer(stdout=xml)
    harness = EngineHarness(kube, targets=(Target("gpu-operator", "app=x", "c"),))
    await harness.engine.start()
    await until(lambda: inventory_path("n1") in kube.objects)
    assert [call.pod for call in kube.exec.calls] == ["new", "new", "old"]  # the path on GKE, too
    await harness.engine.stop(within=1)


async def test_it_heals_as_soon_as_the_back_off_ends(cluster: Cluster) -> None:
    cluster.pod(DRIVER, tell=False)
    await cluster.start()
    await cluster.read_in(DRIVER)
    cluster.answers = {DRIVER: MISSING}
    cluster.pod(DRIVER, number=2)
    await until(lambda: cluster.ready[1] == "NvidiaSmiNotFound")
    cluster.answers = {}
    await until(lambda: cluster.ready[0] == "True", within=10)


async def test_a_restart_does_not_try_again_what_has_no_nvidia_smi(cluster: Cluster) -> None:
    cluster.pod(DRIVER, tell=False, started="2020-01-01T00:00:00Z")
    cluster.pod(PLUGIN, tell=False, started="2020-01-01T00:00:00Z")
    cluster.answers = {DRIVER: MISSING}
    await cluster.start()
    await cluster.read_in(PLUGIN)
    cluster.calls()
    await cluster.restart()
    await asyncio.sleep(3600)
    assert cluster.calls() == []
    # With a read that is due anyway, the first target has its chance: the user may prefer it now.
    await cluster.request_read()
    assert cluster.calls() == [DRIVER, PLUGIN]
    assert cluster.source == PLUGIN


async def test_after_a_restart_a_better_target_that_fails_backs_off(cluster: Cluster) -> None:
    cluster.pod(PLUGIN, tell=False)
    cluster.pod(DRIVER, tell=False)
    cluster.answers = {DRIVER: MISSING}
    await cluster.start()
    await cluster.read_in(PLUGIN)
    await cluster.restart()
    cluster.calls()
    cluster.answers = {DRIVER: ExecAnswer(exit_code=9, stderr=b"no driver")}
    await cluster.request_read()
    await until(lambda: len(cluster.kube.exec.calls) > 4)
    first = cluster.kube.exec.calls[0].time
    assert cluster.kube.exec.calls[4].time - first > 5
    assert cluster.ready[0] == "False"
    # The node is not given up to pods that may see less, and is read when the driver works.
    cluster.answers.clear()
    await cluster.read_in(DRIVER)


async def test_a_target_earlier_in_the_list_takes_over_when_it_is_ready(cluster: Cluster) -> None:
    await cluster.start()
    cluster.pod(DCGM)
    await cluster.read_in(DCGM)
    cluster.pod(DRIVER, ready=False)
    await asyncio.sleep(600)
    assert cluster.source == DCGM
    cluster.pod(DRIVER)
    await cluster.read_in(DRIVER)
    assert cluster.calls() == [DCGM, DRIVER]
    assert cluster.history == ["GPUAdded", "GPUAdded"]


async def test_one_that_takes_over_without_nvidia_smi_costs_one_exec(cluster: Cluster) -> None:
    cluster.answers = {DRIVER: MISSING}
    await cluster.start()
    cluster.pod(DCGM)
    await cluster.read_in(DCGM)
    cluster.pod(DRIVER)
    await asyncio.sleep(3600)
    assert cluster.calls() == [DCGM, DRIVER]
    assert (cluster.source, cluster.ready[0]) == (DCGM, "True")


async def test_a_pod_that_is_replaced_does_not_move_the_node(cluster: Cluster) -> None:
    """The other target may see fewer GPUs: they would be gone and come back."""
    await cluster.start()
    cluster.pod(PLUGIN)
    await cluster.read_in(PLUGIN)
    cluster.pod(DCGM)
    cluster.remove(PLUGIN)
    await asyncio.sleep(30)
    cluster.pod(PLUGIN, number=2, ready=False)
    await asyncio.sleep(30)
    cluster.pod(PLUGIN, number=2)
    await until(lambda: cluster.status["source"]["containerID"].endswith("-2"))
    assert cluster.calls() == [PLUGIN, PLUGIN]
    assert cluster.history == ["GPUAdded", "GPUAdded"]


async def test_a_pod_that_is_gone_for_good_gives_way_to_the_next(cluster: Cluster) -> None:
    await cluster.start()
    cluster.pod(PLUGIN)
    await cluster.read_in(PLUGIN)
    cluster.pod(DCGM)
    cluster.remove(PLUGIN)
    await cluster.read_in(DCGM)
    assert cluster.calls() == [PLUGIN, DCGM]
    assert cluster.history == ["GPUAdded", "GPUAdded"]
    assert cluster.ready[1] == "ReadOK"


async def test_a_real_change_in_another_target_is_history(cluster: Cluster) -> None:
    await cluster.start()
    cluster.pod(DCGM)
    await cluster.read_in(DCGM)
    cluster.xml = swapped(cluster.xml, 0, "another")
    cluster.pod(DRIVER)
    await cluster.read_in(DRIVER)
    assert sorted(cluster.history) == ["GPUAdded", "GPUAdded", "GPUAdded", "GPURemoved"]


async def test_pods_that_validate_are_not_read(cluster: Cluster) -> None:
    put_pod(
        cluster.kube,
        "n1",
        name="validator",
        container="nvidia-operator-validator",
        labels={"app": "nvidia-device-plugin-daemonset"},
    )
    await cluster.start()
    await until(lambda: cluster.ready[1] == "NoTargetPod")
    assert cluster.calls() == []


async def test_a_plugin_on_a_node_without_gpus_makes_no_inventory(kube: FakeKube) -> None:
    """NVIDIA's static manifest runs on every node."""
    put_node(kube, "n1", gpus=None)
    cluster = Cluster(kube)
    cluster.pod(PLUGIN, tell=False)
    cluster.answers = {PLUGIN: MISSING}
    await cluster.start()
    await until(lambda: len(kube.exec.calls) > 2)
    assert inventory_path("n1") not in kube.objects


async def test_a_check_does_not_run_on_a_node_without_gpus(kube: FakeKube) -> None:
    for name, capacity in (("n1", None), ("n2", 8)):
        put_node(kube, name, gpus=capacity)
        put_pod(kube, name, container=PLUGIN, labels=LABELS[PLUGIN])
    selector = {"matchLabels": LABELS[PLUGIN]}
    put_policy(kube, "p", checks=[{"name": "c", "podSelector": selector, "command": "true"}])
    kube.exec.decide = lambda call: ExecAnswer() if call.command[-1] == "true" else MISSING
    harness = EngineHarness(kube, targets=TARGETS, checks_allowed=True)
    await harness.engine.start()
    await until(lambda: kube.objects.get(inventory_path("n2"), {}).get("status", {}).get("checks"))
    await asyncio.sleep(3600)
    assert inventory_path("n1") not in kube.objects
    await harness.engine.stop(within=1)


async def test_nodes_without_gpus_are_tried_more_and_more_rarely(kube: FakeKube) -> None:
    put_node(kube, "n1", gpus=None)
    cluster = Cluster(kube)
    cluster.pod(DCGM, tell=False)
    cluster.answers = {DCGM: MISSING}
    await cluster.start()
    await asyncio.sleep(86400)
    cluster.calls()
    await asyncio.sleep(86400)
    assert 24 <= len(cluster.calls()) <= 48
    # One that has a GPU by now is not forgotten.
    put_node(kube, "n1", gpus=1)
    cluster.answers.clear()
    await cluster.read_in(DCGM)


def namespaces(cluster: Cluster) -> set[str]:
    """Those whose pods are watched."""
    return {one.namespace for one in cluster.harness.engine.sources}


async def test_a_plugin_without_it_on_a_node_that_slices_show_makes_one(kube: FakeKube) -> None:
    put_node(kube, "n1", gpus=None)
    put_slice(kube, "n1", gpus("GPU-a"))
    cluster = Cluster(kube)
    cluster.pod(PLUGIN, tell=False)
    cluster.answers = {PLUGIN: MISSING}
    await cluster.start()
    await until(lambda: cluster.ready[1] == "NvidiaSmiNotFound")
    assert cluster.status["source"] == {"resourceSlices": True}


class TestNamespaces:
    """Namespaces that a cluster does not have, or in which the operator has no rights."""

    @pytest.fixture
    def closed(self, kube: FakeKube) -> Callable[[], None]:
        """All namespaces but gpu-operator, until the test opens them."""
        others = "|".join({one.namespace for one in TARGETS} - {"gpu-operator"})
        fault = kube.fail("GET", f"/namespaces/({others})/pods$", forbidden(), times=10**6)

        def open_all() -> None:
            fault.ends = 0.0

        return open_all

    async def test_the_others_are_read(
        self, cluster: Cluster, closed: Callable[[], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster.pod(PLUGIN, tell=False)
        with caplog.at_level("INFO"):
            await cluster.start()
            await cluster.read_in(PLUGIN)
            assert namespaces(cluster) == {"gpu-operator"}
            await asyncio.sleep(7200)
        said = [one for one in caplog.records if "not permitted to list" in one.getMessage()]
        assert len(said) == 1

    async def test_the_condition_names_them_where_no_pod_is_found(
        self, cluster: Cluster, closed: Callable[[], None]
    ) -> None:
        await cluster.start()
        await until(lambda: cluster.ready[1] == "NoTargetPod")
        assert "the operator may not list pods in dcgm-exporter, dra-driver" in cluster.ready[2]

    async def test_one_that_opens_is_listed_and_watched(
        self, cluster: Cluster, closed: Callable[[], None]
    ) -> None:
        await cluster.start()
        await until(lambda: cluster.ready[1] == "NoTargetPod")
        put_pod(
            cluster.kube,
            "n1",
            namespace="kube-system",
            labels={"k8s-app": "nvidia-gpu-device-plugin"},
            container="nvidia-gpu-device-plugin",
        )
        cluster.harness.engine.sources_changed.clear()
        closed()
        await cluster.read_in("nvidia-gpu-device-plugin")
        assert cluster.harness.engine.sources_changed.is_set()
        assert len(cluster.harness.engine.sources) == 11

    async def test_one_that_closes_is_not_watched_any_more(self, cluster: Cluster) -> None:
        cluster.pod(PLUGIN, tell=False)
        await cluster.start()
        await cluster.read_in(PLUGIN)
        fault = cluster.kube.fail("GET", "/kube-system/pods$", forbidden(), times=10**6)
        await cluster.harness.engine.pod_events.check_rights()
        assert "gpu-operator" in namespaces(cluster)
        assert "kube-system" not in namespaces(cluster)
        assert cluster.harness.engine.sources_changed.is_set()
        # The right comes back before the next resync.
        fault.ends = 0.0
        await until(lambda: "kube-system" in namespaces(cluster), within=90)

    @pytest.fixture
    async def lost(self, cluster: Cluster) -> Cluster:
        """The pod in use is gone, and the operator cannot know: its right went first."""
        cluster.pod(PLUGIN, tell=False)
        await cluster.start()
        await cluster.read_in(PLUGIN)
        cluster.kube.fail("GET", "/gpu-operator/pods$", forbidden(), times=10**6)
        cluster.kube.remove(pod_path(PLUGIN))
        await cluster.harness.engine.pod_events.check_rights()
        return cluster

    async def test_pods_where_the_right_is_gone_for_good_give_way(self, lost: Cluster) -> None:
        gke = "nvidia-gpu-device-plugin"
        put_pod(lost.kube, "n1", namespace="kube-system", labels={"k8s-app": gke}, container=gke)
        await lost.read_in(gke)
        assert lost.history == ["GPUAdded", "GPUAdded"]

    async def test_a_node_that_goes_where_the_right_is_gone_departs(self, lost: Cluster) -> None:
        lost.kube.remove(f"{NODES}/n1")
        await until(lambda: lost.status["state"] == "Departed")

    async def test_the_only_namespace_that_opens_again_is_read(self, kube: FakeKube) -> None:
        gke = "nvidia-gpu-device-plugin"
        put_node(kube, "n1")
        harness = EngineHarness(kube, targets=expand("gke"))
        await harness.engine.start()
        fault = kube.fail("GET", "/kube-system/pods$", forbidden(), times=10**6)
        await harness.engine.pod_events.check_rights()
        assert harness.engine.sources == ()
        fault.ends = 0.0
        put_pod(kube, "n1", namespace="kube-system", labels={"k8s-app": gke}, container=gke)
        # Before the next resync.
        await until(lambda: harness.engine.sources, within=90)
        await harness.engine.stop(within=1)

    async def test_a_list_that_opens_namespaces_during_a_look_counts(
        self, cluster: Cluster, closed: Callable[[], None]
    ) -> None:
        await cluster.start()
        events, goes_on = cluster.harness.engine.pod_events, asyncio.Event()
        held = cluster.kube.fail("GET", "/gpu-operator/pods$", None, until=goes_on)
        look = asyncio.create_task(events.check_rights())
        await held.met.wait()
        closed()
        await events.targets.list_all()
        goes_on.set()
        await look
        assert namespaces(cluster) == {one.namespace for one in TARGETS}

    async def test_presets_without_rights_anywhere_say_what_to_do(self, cluster: Cluster) -> None:
        cluster.kube.fail("GET", "/pods$", forbidden(), times=10**6)
        await cluster.start()
        await until(lambda: cluster.ready[1] == "NoTargetPod")
        assert "run reader pods" in cluster.ready[2]
        assert cluster.harness.engine.sources == ()

    async def test_checks_run_in_the_first_namespace_with_rights(self, kube: FakeKube) -> None:
        kube.fail("GET", "/namespaces/gpu-operator/pods$", forbidden(), times=10**6)
        check = {
            "name": "c",
            "podSelector": {"matchLabels": {"tier": "gpu"}},
            "command": "true",
        }
        put_policy(kube, "p", checks=[check])
        harness = EngineHarness(kube, targets=expand("auto"), checks_allowed=True)
        await harness.engine.start()
        assert PodSelector("kube-system", "tier=gpu") in harness.engine.sources
        assert "gpu-operator" not in {one.namespace for one in harness.engine.sources}
        await harness.engine.stop(within=1)

    async def test_targets_of_the_user_need_their_rights(self, kube: FakeKube) -> None:
        kube.fail("GET", "/pods$", forbidden(), times=10**6)
        harness = EngineHarness(kube, targets=(Target("a", "b=c"), *expand("gke")))
        with pytest.raises(Forbidden):
            await harness.engine.start()


async def test_a_pod_that_changes_its_label_changes_its_target(kube: FakeKube) -> None:
    targets = (
        Target("gpu-operator", "app=first", "c"),
        Target("gpu-operator", "app=second", "c"),
    )
    put_node(kube, "n1")
    kube.exec.answer = MISSING
    harness = EngineHarness(kube, targets=targets)
    (source,) = harness.engine.sources
    assert source == PodSelector("gpu-operator", "app in (first,second)")
    await harness.engine.start()

    def move(label: str) -> None:
        body = put_pod(kube, "n1", name="p", container="c", labels={"app": label})
        harness.engine.pod_event(source, body, deleted=False)

    move("second")
    await until(lambda: kube.exec.calls)
    assert len(kube.exec.calls) == 2  # the path on GKE, too
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    move("first")
    await until(lambda: kube.objects[inventory_path("n1")]["status"].get("gpuCount") == 2)
    await harness.engine.stop(within=1)
