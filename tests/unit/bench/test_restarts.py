"""The restart of a target container, as a kubelet writes it."""

from __future__ import annotations

from typing import Any

from tests.bench.restarts import restart


def pod() -> dict[str, Any]:
    def container(name: str) -> dict[str, Any]:
        state = {"running": {"startedAt": "2026-06-01T00:00:00Z"}}
        return {"name": name, "containerID": f"containerd://{name}", "restartCount": 2} | {
            "state": state,
            "ready": True,
        }

    statuses = [container("sidecar"), container("nvidia-device-plugin")]
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}}


def test_only_the_target_container_gets_a_new_id() -> None:
    before = pod()
    request = restart(before)
    assert before == pod()
    assert (request.method, request.path.rpartition("/pods/")[2]) == ("PATCH", "p/status")
    sidecar, target = request.body["status"]["containerStatuses"]
    assert sidecar == pod()["status"]["containerStatuses"][0]
    assert target["containerID"] != "containerd://nvidia-device-plugin"
    assert target["restartCount"] == 3
    assert target["lastState"]["terminated"]["containerID"] == "containerd://nvidia-device-plugin"
    assert target["ready"]


def test_two_restarts_have_two_ids() -> None:
    ids = {restart(pod()).body["status"]["containerStatuses"][1]["containerID"] for _ in range(2)}
    assert len(ids) == 2
