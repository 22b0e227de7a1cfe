"""The API server, the connection to it or the environment fails the operator."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.api_fault_proxy import ApiFaultProxy, Position
from tests.support.operators import (
    INVENTORIES,
    STARTS_WITHIN,
    Operator,
    condition,
    eventually,
    inventory,
    is_delivered,
    read_again,
    request_read,
    status,
)
from tests.support.smi_fixtures import facts, machine, swapped, uuids

NODE = "gpu-faults"
FORCED = "?fieldManager=gpuid-operator&force=true&fieldValidation=Ignore"


@pytest.fixture(scope="module", autouse=True)
def node(fleet: LocalCluster) -> None:
    fleet.add_node(NODE, xml=machine(NODE))


@pytest.fixture
def proxy(fleet: LocalCluster) -> Iterator[ApiFaultProxy]:
    with ApiFaultProxy(fleet) as proxy:
        yield proxy


def read_well(fleet: LocalCluster) -> None:
    assert condition(fleet, NODE) == ("True", "ReadOK")


def swap(fleet: LocalCluster, name: str) -> str:
    """Another GPU, and a restart of the plugin; what nvidia-smi says now."""
    xml = swapped(fleet.smi_file(NODE).read_text(), 0, name)
    fleet.write_smi(NODE, xml)
    fleet.restart_plugin(NODE)
    return xml


def shows(fleet: LocalCluster, xml: str) -> None:
    found = status(fleet, NODE)
    assert found["gpus"] == facts(xml)
    assert [sink["pending"] for sink in found["sinks"]] == [0]
    numbers = [entry["sequence"] for entry in found["history"]]
    assert numbers == sorted(set(numbers))


def test_a_restart_of_the_api_server_is_survived(fleet: LocalCluster) -> None:
    with Operator(fleet) as operator:
        eventually(lambda: read_well(fleet))
        fleet.set_behaviour(NODE, delay=1)
        runs = len(fleet.exec_log(NODE))
        xml = swap(fleet, "gpu-while-away")

        def reading() -> None:
            assert len(fleet.exec_log(NODE)) > runs

        eventually(reading)
        fleet.stop_apiserver()
        fleet.clear_behaviour(NODE)

        def noticed() -> None:
            assert any(line["level"] in ("WARN", "ERROR") for line in operator.lines())

        eventually(noticed)
        fleet.start_apiserver()
        eventually(lambda: shows(fleet, xml), within=60)
        after = swap(fleet, "gpu-after")
        eventually(lambda: shows(fleet, after), within=60)
        eventually(lambda: is_ready(operator), within=60)


def is_ready(operator: Operator) -> None:
    assert operator.get("/readyz")[0] == 200
    assert operator.get("/healthz")[0] == 200


def test_a_cut_watch_goes_on(fleet: LocalCluster, proxy: ApiFaultProxy) -> None:
    with Operator(fleet, kubeconfig=proxy.kubeconfig) as operator:
        eventually(lambda: is_watched(proxy))
        for number in range(3):
            assert proxy.cut(lambda request: "watch=true" in request) == 5
            xml = swap(fleet, f"gpu-cut-{number}")
            eventually(partial(shows, fleet, xml))
            eventually(lambda: is_watched(proxy))
        is_ready(operator)


def is_watched(proxy: ApiFaultProxy) -> None:
    # Those of pods, policies, quarantines, inventories and ResourceSlices.
    assert proxy.watches == 5


def test_a_watch_that_gave_up_is_started_again(fleet: LocalCluster, proxy: ApiFaultProxy) -> None:
    with Operator(fleet, kubeconfig=proxy.kubeconfig) as operator:
        eventually(lambda: is_watched(proxy))
        proxy.refuses = lambda _: "403 Forbidden"
        proxy.cut(lambda request: "watch=true" in request)
        # Kopf tries for a while, then ends; whether the CRDs are there cannot be seen either.

        def unready() -> None:
            assert operator.get("/readyz")[0] == 503

        eventually(unready, within=90)
        proxy.refuses = lambda _: None
        eventually(lambda: is_watched(proxy), within=60)
        xml = swap(fleet, "gpu-gave-up")
        eventually(lambda: shows(fleet, xml))
        eventually(lambda: is_ready(operator))


def test_what_users_did_while_the_watch_was_too_old_is_seen(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    def follows(request: str) -> bool:
        return "watch=true" in request and "/gpuinventories?" in request

    with Operator(fleet, kubeconfig=proxy.kubeconfig):
        eventually(lambda: read_well(fleet))
        eventually(lambda: is_watched(proxy))
        proxy.refuses = lambda head: "" if follows(head) else None
        proxy.cut(follows)
        request_read(fleet, NODE, "unseen")
        answers = ["410 Gone"]
        proxy.refuses = lambda head: answers.pop() if answers and follows(head) else None

        def handled() -> None:
            assert not answers
            assert status(fleet, NODE)["lastHandledRequest"] == "unseen"

        eventually(handled)


def test_a_node_that_follows_its_pod_departs_after_the_grace(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    name = "gpu-drained"
    fleet.add_node(name, xml=machine(name))
    with Operator(fleet, periods={"pod_grace": 3.0}):

        def read() -> None:
            assert condition(fleet, name) == ("True", "ReadOK")

        eventually(read)
        fleet.kubectl("label", "node", name, "nvidia.com/gpu.present=false", "--overwrite")

        def pod_gone() -> None:
            path = "/api/v1/namespaces/gpu-operator/pods"
            assert fleet.client.get(f"{path}?fieldSelector=spec.nodeName%3D{name}")["items"] == []

        eventually(pod_gone)
        fleet.client.send(Request("DELETE", f"/api/v1/nodes/{name}"))

        def departed() -> None:
            assert status(fleet, name)["state"] == "Departed"

        eventually(departed)


def test_execs_that_do_not_reach_the_server_are_not_repeated_without_a_pause(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    other = "gpu-faults-other"
    fleet.add_node(other, xml=machine(other))
    pod = fleet.wait_plugin(NODE)["metadata"]["name"]
    with Operator(fleet, kubeconfig=proxy.kubeconfig, RESYNC="1s"):
        eventually(lambda: read_well(fleet))
        proxy.refuses = lambda head: "" if f"/{pod}/exec?" in head else None
        request_read(fleet, NODE, "cut off")

        def tried() -> None:
            assert proxy.refused >= 3

        eventually(tried)
        runs = len(fleet.exec_log(other))

        def read_thrice() -> None:
            assert len(fleet.exec_log(other)) >= runs + 3

        eventually(read_thrice)
        # Pauses that double leave room for a few tries only; without pauses there are hundreds.
        assert proxy.refused < 12
        proxy.refuses = lambda _: None

        def handled() -> None:
            assert status(fleet, NODE).get("lastHandledRequest") == "cut off"

        eventually(handled)
    fleet.delete_node(other)


def test_the_operator_ends_in_order_even_without_an_api_server(fleet: LocalCluster) -> None:
    with Operator(fleet, TIMEOUT="1m") as operator:
        eventually(lambda: read_well(fleet))
        fleet.set_behaviour(NODE, hang=True)
        runs = len(fleet.exec_log(NODE))
        fleet.restart_plugin(NODE)

        def reading() -> None:
            assert len(fleet.exec_log(NODE)) > runs

        eventually(reading)
        fleet.stop_apiserver()
        try:
            assert operator.terminate(within=20) == 0  # the work has 8 s for its end
        finally:
            fleet.start_apiserver()
            fleet.clear_behaviour(NODE)
    assert operator.lines()[-1]["msg"] == "stopped"


BAD = [
    ({"WORKERS": "0"}, "WORKERS", "1 to 500"),
    ({"TIMEOUT": "soon"}, "TIMEOUT", "1m30s"),
    ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "debug, info, warn or error"),
    ({"TARGETS": "[{namespace: x}]"}, "TARGETS", "selector"),
    ({"EXPORTER_TYPE": "http"}, "HTTP_ENDPOINT", "requires it"),
    ({"LEASE_RENEW_DEADLINE": "20s"}, "LEASE_RENEW_DEADLINE", "shorter than"),
]


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuid_operator", "run"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("variables", "name", "allowed"), BAD, ids=[case[1] for case in BAD])
def test_a_bad_environment_is_one_line_and_exit_code_2(
    variables: dict[str, str], name: str, allowed: str
) -> None:
    done = run(**variables)
    assert (done.returncode, done.stderr) == (2, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["level"] == "ERROR"
    assert name in line["msg"] and allowed in line["msg"]


def test_a_port_in_use_is_said(fleet: LocalCluster) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(SERVER_PORT=port, KUBECONFIG=str(fleet.kubeconfig))
    assert (done.returncode, done.stderr) == (2, "")
    line = json.loads(done.stdout.splitlines()[-1])
    assert "SERVER_PORT" in line["msg"] and port in line["msg"]


def test_without_a_cluster_it_says_so_and_waits(fleet: LocalCluster) -> None:
    absent = fleet.directory / "absent.kubeconfig"
    with Operator(fleet, kubeconfig=absent, ready=False) as operator:

        def said() -> None:
            code, words = operator.get("/readyz")
            assert code == 503 and str(absent) in words

        eventually(said, within=STARTS_WITHIN)
        absent.write_text(fleet.kubeconfig.read_text())
        operator.wait_ready()


def test_a_request_that_crosses_a_write_is_not_overlooked(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    """A write meets the change of a user: what is found then, no event tells any more."""
    with Operator(fleet, kubeconfig=proxy.kubeconfig):
        eventually(lambda: read_well(fleet))
        eventually(lambda: is_watched(proxy))
        # No read of another container, nor its delivery, is still to be noted.
        read_again(fleet, NODE, "before")
        eventually(lambda: is_delivered(fleet, NODE))
        # The first stores the swap, and the second notes the delivery, apart from any look at the
        # node.
        write = f"PATCH {INVENTORIES}/{NODE}/status{FORCED}"
        crossing = proxy.set_trap(
            1,
            Position.MEANWHILE,
            lambda: request_read(fleet, NODE, "crossing"),
            wanted=lambda request: request == write,
        )
        xml = swap(fleet, "gpu-first")
        assert crossing.triggered.wait(30)

        def handled() -> None:
            assert status(fleet, NODE).get("lastHandledRequest") == "crossing"

        eventually(handled)
        shows(fleet, xml)


def test_look_up_labels_that_were_refused_are_written_later(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    periods = {"resync": 3.0}
    with Operator(fleet, kubeconfig=proxy.kubeconfig, periods=periods) as operator:
        eventually(lambda: is_watched(proxy))
        proxy.refuses = lambda head: (
            "500 Internal Server Error" if head.startswith(f"PATCH {INVENTORIES}/{NODE}?") else None
        )
        xml = swap(fleet, "gpu-labels")
        eventually(lambda: shows(fleet, xml))
        eventually(lambda: says(operator, "failed to write look-up labels"))
        proxy.refuses = lambda _: None
        wanted = {f"uuid.gpuid.github.com/{uuid}": "present" for uuid in uuids(xml)}

        def labelled() -> None:
            labels = inventory(fleet, NODE)["metadata"]["labels"]
            assert wanted.items() <= labels.items()

        eventually(labelled)


def says(operator: Operator, words: str) -> None:
    assert any(line["msg"] == words for line in operator.lines())
