"""Checks in real containers: exit codes as the kubelet gives them, and restarts of real pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster, images
from gpuid_operator.localcluster.client import Request
from tests.support.check_scripts import events
from tests.support.operators import Operator, eventually

SHELL = "gpuid.local/with-shell:checks"
BARE = "gpuid.local/without-shell:checks"
APPS = "/apis/apps/v1/namespaces/gpu-operator/daemonsets"
PODS = "/api/v1/namespaces/gpu-operator/pods"


@pytest.fixture(scope="module")
def cluster(
    node_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """Two DaemonSets on the real node: containers with a shell, and without one."""
    files, links = images.busybox()
    folder = tmp_path_factory.mktemp("images")
    forever = ["/bin/sh", "-c", "trap exit TERM; while sleep 1; do :; done"]
    for name, some, command in (
        (SHELL, links, forever),
        (BARE, {"/bin/sleep": "busybox"}, ["/bin/sleep", "100000"]),
    ):
        tar = folder / f"{name.partition('/')[2].partition(':')[0]}.tar"
        images.build_image(tar, name=name, files=files, links=some, command=command)
        node_cluster.import_image(tar)
    for app, image in (("with-shell", SHELL), ("without-shell", BARE)):
        node_cluster.client.send(Request("POST", APPS, daemonset(node_cluster, app, image)))
    for app in ("with-shell", "without-shell"):
        node_cluster.kubectl(
            *("rollout", "status", "-n", "gpu-operator", f"daemonset/{app}", "--timeout=90s")
        )
    yield node_cluster
    for app in ("with-shell", "without-shell"):
        node_cluster.client.send(Request("DELETE", f"{APPS}/{app}"))


def daemonset(cluster: LocalCluster, app: str, image: str) -> dict[str, Any]:
    labels = {"app": app}
    container = {"name": "main", "image": image, "imagePullPolicy": "Never"}
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": cluster.real_node_name},
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": app},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def runner(cluster: LocalCluster, name: str, command: str, **variables: str) -> Operator:
    environment: dict[str, Any] = {
        "LABEL_SELECTOR": "app=with-shell",
        "CONTAINER": "main",
        "RESYNC": "1s",
    }
    environment |= {"CHECK_NAME": name, "COMMAND": command, "TIMEOUT": "5s"}
    return Operator(cluster, **environment | variables)


def result(cluster: LocalCluster, name: str) -> dict[str, Any]:
    path = f"/apis/gpuid.github.com/v1alpha1/gpuinventories/{cluster.real_node_name}"
    found = cluster.client.send(Request("GET", path, tolerate=(404,)))
    checks = (found or {}).get("status", {}).get("checks", ())
    mine = [check for check in checks if check["name"] == name]
    assert mine, f"no result of {name}"
    return dict(mine[0])


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("echo one\necho two", 0, "one\ntwo", ""),
        ("id -u; exit 3", 3, "0", ""),
        ("absent-program", 127, "", "/bin/sh: absent-program: not found"),
        ("kill -9 $$", 137, "", ""),
        ("exit 255", 255, "", ""),
        ("printf '\\303\\244\\377\\000'", 0, "ä\ufffd\ufffd", ""),
        ("grep -c '' /proc/self/status > /dev/null; echo kept >&2; false", 1, "", "kept"),
    ],
)
def test_exit_codes_and_output(
    cluster: LocalCluster, command: str, code: int, stdout: str, stderr: str, request: Any
) -> None:
    name = f"code-{request.node.callspec.indices['command']}"
    with runner(cluster, name, command) as instance:
        found = eventually(lambda: result(cluster, name))
    assert (found["exitCode"], found["passed"]) == (code, code == 0)
    assert (found["stdout"], found["stderr"]) == (stdout, stderr)
    line = next(line for line in instance.lines() if line.get("check") == name)
    assert line["node"] == cluster.real_node_name
    assert line["exit_code"] == code


def test_a_command_that_hangs(cluster: LocalCluster) -> None:
    with runner(cluster, "hangs", "echo begun; sleep 60"):
        found = eventually(lambda: result(cluster, "hangs"))
    assert "exitCode" not in found
    assert (found["passed"], found["stdout"]) == (False, "begun")
    assert "did not end within 5 s" in found["stderr"]


def test_a_container_without_a_shell_is_a_result_and_no_reason_to_restart(
    cluster: LocalCluster,
) -> None:
    before = pods(cluster, "without-shell")
    variables = {"LABEL_SELECTOR": "app=without-shell", "FORCE_RESTART": "true"}
    with runner(cluster, "bare", "echo never", **variables) as instance:
        found = eventually(lambda: result(cluster, "bare"))
        first = found["lastRunTime"]

        def again() -> None:
            assert result(cluster, "bare")["lastRunTime"] > first

        eventually(again)
    assert (found["passed"], found["stdout"]) == (False, "")
    assert "exitCode" not in found
    assert "no such program" in found["stderr"] and "/bin/sh" in found["stderr"]
    assert pods(cluster, "without-shell") == before
    assert not [line for line in instance.lines() if "restarted" in line["msg"]]


def pods(cluster: LocalCluster, app: str) -> list[str]:
    items = cluster.client.get(PODS, labelSelector=f"app={app}")["items"]
    return [
        item["metadata"]["uid"] for item in items if "deletionTimestamp" not in item["metadata"]
    ]


def test_a_pod_of_a_daemonset_is_restarted(cluster: LocalCluster, tmp_path: Path) -> None:
    """The check fails in the pod that is there, and passes in any other."""
    (item,) = cluster.client.get(PODS, labelSelector="app=with-shell")["items"]
    old = item["metadata"]["uid"]
    mark = "/proc/1/root/tmp/broken"
    name = item["metadata"]["name"]
    cluster.kubectl("exec", "-n", "gpu-operator", name, "--", "touch", mark)
    with runner(cluster, "broken", f"[ ! -e {mark} ]", FORCE_RESTART="true", RESYNC="1h"):

        def repaired() -> None:
            found = result(cluster, "broken")
            assert found["passed"] is True
            assert found["pod"] != f"gpu-operator/{name}"

        eventually(repaired, within=60)
        found = result(cluster, "broken")
        assert (found["transitions"], "restarts" in found) == (2, False)
        (message,) = events(cluster, cluster.real_node_name, "PodRestarted")
        assert name in message
    assert old not in pods(cluster, "with-shell")
