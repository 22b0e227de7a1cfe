"""`kubectl gpuid` on a real API server."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.cli import plugin_complete
from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.plan.labels import lookup_labels
from tests.support.operators import INVENTORIES, Operator, eventually

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
UUID_1 = "GPU-25e04bdf-6a27-0a2d-f989-a9228a03f373"
UUID_2 = "GPU-77ee04bd-0000-0a2d-f989-a9228a03f373"
HERE = "gpuid-local"


@pytest.fixture
def config(fleet: LocalCluster) -> Iterator[Path]:
    """The kubeconfig of a cluster without any inventory."""
    yield fleet.kubeconfig
    fleet.client.send(Request("DELETE", INVENTORIES))


@pytest.fixture
def run(config: Path) -> Callable[..., Result]:
    def run(*words: str, kubeconfig: Path = config) -> Result:
        return CliRunner().invoke(
            cli, words, prog_name=PROGRAM, env={"KUBECONFIG": str(kubeconfig)}
        )

    return run


def at(minute: int) -> str:
    return f"2026-06-07T10:{minute:02}:00Z"


def gpu(uuid: str, serial: str, **facts: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "serial": serial,
        "pciAddress": "00000000:01:00.0",
        "product": "NVIDIA GB200",
        **facts,
    }


def entry(minute: int, kind: str, of: Mapping[str, Any] | None, **facts: Any) -> dict[str, Any]:
    known = {key: of[key] for key in ("uuid", "serial", "pciAddress")} if of else {}
    return {
        "sequence": minute,
        "time": at(minute),
        "type": kind,
        "machine": "i-1",
        **known,
        **facts,
    }


def ready(status: str = "True", reason: str = "ReadOK", message: str = "") -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(0),
    }


def put(
    cluster: LocalCluster,
    name: str,
    *,
    gpus: Sequence[dict[str, Any]] = (),
    history: Sequence[dict[str, Any]] = (),
    labelled: bool = True,
    **facts: Any,
) -> None:
    """Create an inventory as the operator would."""
    status = {
        "state": "Present",
        "node": {"name": name, "machine": "i-1"},
        "gpuCount": len(gpus),
        "serials": sorted({one["serial"] for one in gpus}),
        "gpus": list(gpus),
        "history": list(history),
        "driverVersion": "570.86.15",
        "lastReadTime": at(30),
        "conditions": [ready()],
        **facts,
    }
    labels = lookup_labels(InventoryStatus.model_validate(status)) if labelled else {}
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
    }
    cluster.client.send(Request("POST", INVENTORIES, body))
    change(cluster, name, **status)


def change(cluster: LocalCluster, name: str, **status: Any) -> None:
    path = f"{INVENTORIES}/{name}/status"
    cluster.client.send(Request("PATCH", path, {"status": status}, content_type=MERGE))


@pytest.fixture
def moved(fleet: LocalCluster, config: Path) -> None:
    """A GPU that was behind one node and is behind another, where its twin is too."""
    one, twin = gpu(UUID_1, "S/1"), gpu(UUID_2, "S/1", pciAddress="00000000:02:00.0")
    put(
        fleet,
        "n-a",
        history=[entry(1, "GPUAdded", one), entry(5, "GPURemoved", one)],
    )
    put(
        fleet,
        "n-b",
        gpus=[one | {"chassisSerial": "C1"}, twin],
        history=[
            entry(1, "GPUAdded", twin),
            entry(7, "GPUAdded", one, chassis="C1"),
            entry(8, "DriverChanged", None, **{"from": "565", "to": "570"}),
            entry(9, "GPULost", twin, message="nvidia-smi says that the GPU is lost"),
        ],
    )
    put(fleet, "n-c", gpus=[gpu("GPU-9", "S9")])


def test_where_tells_where_a_gpu_is_and_was(moved: None, run: Callable[..., Result]) -> None:
    result = run("where", UUID_1.upper())
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["SERIAL", "UUID", "NODE", "MACHINE", "PCI", "FROM", "TO", "STATE"],
        ["S/1", UUID_1, "n-b", "i-1", "00000000:01:00.0", at(7), "now", "OK"],
        ["S/1", UUID_1, "n-a", "i-1", "00000000:01:00.0", at(1), at(5), "Past"],
    ]


@pytest.mark.parametrize("serial", ["S/1", "S-1"])
def test_twins_that_share_a_serial_are_listed_each(
    serial: str, moved: None, run: Callable[..., Result]
) -> None:
    rows = json.loads(run("where", serial, "-o", "json").stdout)
    assert [(row["uuid"], row["node"], row["present"]) for row in rows] == [
        (UUID_1, "n-b", True),
        (UUID_1, "n-a", False),
        (UUID_2, "n-b", True),
    ]


def test_where_lists_the_gpus_of_a_chassis(moved: None, run: Callable[..., Result]) -> None:
    rows = list(csv.DictReader(io.StringIO(run("where", "C1", "-o", "csv").stdout)))
    assert [(row["uuid"], row["chassis"], row["until"]) for row in rows] == [(UUID_1, "C1", "")]


def test_where_asks_the_server_to_select(
    moved: None, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    before = len(fleet.audit_log.read_text().splitlines())
    assert run("where", UUID_1).exit_code == 0

    def asked() -> list[str]:
        lines = fleet.audit_log.read_text().splitlines()[before:]
        uris = [json.loads(line)["requestURI"] for line in lines]
        found = [uri for uri in uris if uri.startswith(INVENTORIES)]
        assert len(set(found)) == 3
        return found

    assert all("labelSelector" in uri for uri in eventually(asked))


def test_what_no_label_names_is_found_in_histories(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    one = gpu(UUID_1, "S1")
    put(fleet, "n-a", history=[entry(5, "GPURemoved", one)], labelled=False)
    result = run("where", "S1")
    assert result.exit_code == 0
    assert "searching every history" in result.stderr
    assert result.stdout.splitlines()[1].split()[5:] == ["unknown", at(5), "Past"]
    # Found by its label elsewhere, it is sought everywhere only when asked.
    put(fleet, "n-b", gpus=[one], history=[entry(7, "GPUAdded", one)])
    assert [row["node"] for row in json.loads(run("where", "S1", "-o", "json").stdout)] == ["n-b"]
    result = run("where", "S1", "--scan", "-o", "json")
    assert [row["node"] for row in json.loads(result.stdout)] == ["n-b", "n-a"]
    assert result.stderr == ""


@pytest.mark.parametrize("identifier", ["S404", "///", "S9,S1", "n-b"])
def test_a_gpu_that_nobody_saw_is_unknown(
    identifier: str, moved: None, run: Callable[..., Result]
) -> None:
    result = run("where", identifier, "-o", "json")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"{identifier} not found: ")
    assert HERE in last


def test_where_says_when_a_node_is_not_read_any_more(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    conditions = [ready("False", "TimedOut", "no end\nin 30s")]
    put(fleet, "n", gpus=[gpu(UUID_1, "S1")], conditions=conditions)
    result = run("where", "S1", "-o", "wide")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[-1] == "False"
    assert result.stderr == (
        f"warning: the last successful read of n was at {at(30)}; not ready since then: TimedOut:"
        " no end in 30s\n"
    )


def test_history_of_a_gpu_is_merged_over_its_nodes(moved: None, run: Callable[..., Result]) -> None:
    result = run("history", UUID_1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:4] for line in result.stdout.splitlines()[1:]] == [
        [at(1), "n-a", "GPUAdded", "S/1"],
        [at(5), "n-a", "GPURemoved", "S/1"],
        [at(7), "n-b", "GPUAdded", "S/1"],
    ]
    rows = json.loads(run("history", "S-1", "-o", "json").stdout)
    assert [(row["type"], row["node"]) for row in rows] == [
        ("GPUAdded", "n-a"),
        ("GPUAdded", "n-b"),
        ("GPURemoved", "n-a"),
        ("GPUAdded", "n-b"),
        ("GPULost", "n-b"),
    ]


def test_history_of_a_node_is_all_of_it(moved: None, run: Callable[..., Result]) -> None:
    rows = json.loads(run("history", "n-b", "-o", "json").stdout)
    assert [row["type"] for row in rows] == ["GPUAdded", "GPUAdded", "DriverChanged", "GPULost"]
    assert (rows[2]["from"], rows[2]["to"], rows[2]["cluster"]) == ("565", "570", HERE)
    text = run("history", "n-b").stdout
    assert "from 565 to 570" in text
    assert "nvidia-smi says that the GPU is lost" in text
    assert run("history", "n-c").exit_code == 0


@pytest.mark.parametrize("subject", ["n-404", "../n-b", "n-b/status"])
def test_history_of_what_nobody_knows_is_an_error(
    subject: str, moved: None, run: Callable[..., Result]
) -> None:
    result = run("history", subject)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{subject} not found: no node has this name")


def test_list_has_a_row_per_node_or_per_gpu(moved: None, run: Callable[..., Result]) -> None:
    rows = json.loads(run("list", "-o", "json").stdout)
    assert [(row["node"], row["serials"], row["ready"]) for row in rows] == [
        ("n-a", [], "True"),
        ("n-b", ["S/1"], "True"),
        ("n-c", ["S9"], "True"),
    ]
    lines = run("list", "--serials").stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == [UUID_1, UUID_2, "GPU-9"]


def test_an_empty_fleet_is_said(run: Callable[..., Result]) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"no nodes with GPUs found in context {HERE}\n"
    assert json.loads(run("list", "-o", "json").stdout) == []
    assert json.loads(run("export", "-o", "json").stdout) == []


def test_export_has_every_gpu_of_every_page(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    for number in range(103):
        put(fleet, f"n-{number:03}", gpus=[gpu(f"GPU-{number}", f"S{number}", slot=number)])
    departed = gpu("GPU-d", "Sd", chassisSerial="C")
    put(fleet, "o", gpus=[departed], state="Departed")
    result = run("export")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == [
        *["cluster", "node", "machine", "state", "serial", "uuid", "chassis", "slot", "pci"],
        *["product", "driver", "vbios", "boardPartNumber", "gpuPartNumber", "gpuState"],
        "lastRead",
    ]
    assert [row["uuid"] for row in rows] == [f"GPU-{number}" for number in range(103)] + ["GPU-d"]
    assert (rows[7]["slot"], rows[7]["vbios"], rows[7]["state"]) == ("7", "", "Present")
    assert (rows[-1]["state"], rows[-1]["chassis"]) == ("Departed", "C")
    objects = json.loads(run("export", "-o", "json").stdout)
    assert [row["uuid"] for row in objects] == [row["uuid"] for row in rows]


def test_export_ends_quietly_when_nobody_reads_on(fleet: LocalCluster, config: Path) -> None:
    for number in range(3):
        put(fleet, f"n-{number}", gpus=[gpu(f"GPU-{number}", "S")])
    program = Path(sys.executable).with_name("kubectl-gpuid")
    with subprocess.Popen(
        [program, "export", "--kubeconfig", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.fixture
def contexts(config: Path, tmp_path: Path) -> Path:
    """A kubeconfig with one cluster under two names, and one where nothing answers."""
    content = yaml.safe_load(config.read_text())
    (context,) = content["contexts"]
    (cluster,) = content["clusters"]
    (port,) = free_ports(1)
    down = cluster["cluster"] | {"server": f"https://127.0.0.1:{port}"}
    content["clusters"].append({"name": "down", "cluster": down})
    content["contexts"] = [
        {"name": name, "context": context["context"] | {"cluster": where}}
        for name, where in (("a", cluster["name"]), ("b", cluster["name"]), ("down", "down"))
    ]
    content["current-context"] = "b"
    file = tmp_path / "contexts"
    file.write_text(yaml.safe_dump(content))
    return file


def test_several_clusters_are_asked_and_told_apart(
    moved: None, contexts: Path, run: Callable[..., Result]
) -> None:
    def ask(*words: str) -> Result:
        return run(*words, "--contexts", "a,b", kubeconfig=contexts)

    result = ask("where", "C1")
    assert result.exit_code == 0
    header, *lines = [line.split() for line in result.stdout.splitlines()]
    assert header[2] == "CLUSTER"
    assert [line[2] for line in lines] == ["a", "b"]
    assert [row["cluster"] for row in json.loads(ask("list", "-o", "json").stdout)] == (
        ["a"] * 3 + ["b"] * 3
    )
    rows = list(csv.DictReader(io.StringIO(ask("export").stdout)))
    assert sorted(row["cluster"] for row in rows) == ["a"] * 3 + ["b"] * 3
    times = [row["time"] for row in json.loads(ask("history", "n-b", "-o", "json").stdout)]
    assert times == sorted(times)
    assert len(times) == 8


def test_a_cluster_that_is_down_does_not_hide_the_others(
    moved: None, contexts: Path, run: Callable[..., Result]
) -> None:
    result = run("where", UUID_1, "--contexts", "a,down,no", "-o", "json", kubeconfig=contexts)
    assert result.exit_code == 1
    assert [row["cluster"] for row in json.loads(result.stdout)] == ["a", "a"]
    one, other = sorted(result.stderr.splitlines())
    assert one.startswith("error: context down: GET /apis/gpuid.github.com/")
    assert "no answer from the API server" in one
    assert "context no," in other
    result = run("where", UUID_1, "--context", "down", kubeconfig=contexts)
    assert result.exit_code == 1
    assert "not found" not in result.stderr
    assert run("where", UUID_1, kubeconfig=contexts).exit_code == 0


def test_a_missing_right_is_named(
    moved: None, fleet: LocalCluster, config: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    account = "/api/v1/namespaces/default/serviceaccounts/default/token"
    granted = fleet.client.send(Request("POST", account, body={"spec": {}}))
    content = yaml.safe_load(config.read_text())
    content["users"][0]["user"] = {"token": granted["status"]["token"]}
    file = tmp_path / "powerless"
    file.write_text(yaml.safe_dump(content))
    for words, verb in (
        (["where", "S1"], "list"),
        (["history", "n-b"], "get"),
        (["export"], "list"),
        (["read", "n-a", "n-b"], "patch"),
    ):
        result = run(*words, kubeconfig=file)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: context {HERE}: permission denied: gpuinventories.gpuid.")
        assert f'cannot {verb} resource "gpuinventories"' in line
    content["users"][0]["user"] = {"token": "stale"}
    file.write_text(yaml.safe_dump(content))
    result = run("list", kubeconfig=file)
    assert result.exit_code == 1
    assert "rejected the credentials" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def no_crd(fleet: LocalCluster, config: Path) -> Iterator[None]:
    manifest = crd_manifests()[0]
    path = f"{CRDS}/{manifest['metadata']['name']}"
    # 429 while its storage is being made.
    listed = Request("GET", INVENTORIES, tolerate=(404, 429))
    fleet.client.send(Request("DELETE", path))

    def gone() -> None:
        assert fleet.client.send(Request("GET", path, tolerate=(404,))) is None

    def served() -> None:
        assert fleet.client.send(listed) is not None

    eventually(gone)
    yield
    fleet.client.send(Request("POST", CRDS, manifest))
    eventually(served)


def test_a_cluster_without_the_crd_is_asked_about(no_crd: None, run: Callable[..., Result]) -> None:
    def says_so() -> None:
        for words in ["where", "S1"], ["history", "n"], ["list"], ["read", "n"], ["export"]:
            result = run(*words)
            assert result.exit_code == 1
            assert result.stderr == (
                f"error: context {HERE}: the cluster does not serve"
                " gpuinventories.gpuid.github.com;"
                " check that gpuid-operator is installed\n"
            )

    # The API server takes the path away some time after the object.
    eventually(says_so)


def test_an_object_of_another_version_is_no_traceback(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    (manifest, _) = crd_manifests()
    path = f"{CRDS}/{manifest['metadata']['name']}"
    loose = deepcopy(manifest["spec"]["versions"])
    status = loose[0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    del status["properties"]["state"]["enum"]

    def serve(versions: list[dict[str, Any]]) -> None:
        body = {"spec": {"versions": versions}}
        fleet.client.send(Request("PATCH", path, body, content_type=MERGE))

    put(fleet, "n")
    serve(loose)
    try:
        strange = {"status": {"state": "Elsewhere"}}
        request = Request("PATCH", f"{INVENTORIES}/n/status", strange, content_type=MERGE)

        def accepted() -> None:
            answer = fleet.client.send(replace(request, tolerate=(422,)))
            assert answer is not None

        eventually(accepted)
        result = run("list")
    finally:
        fleet.client.send(Request("DELETE", f"{INVENTORIES}/n"))
        serve(manifest["spec"]["versions"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: context {HERE}: failed to parse a GPUInventory: ")
    assert "(state: " in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def answering(fleet: LocalCluster) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """`answering(node, status)` handles the next request of a node as the operator would."""
    threads = []

    def answer(node: str, status: dict[str, Any]) -> None:
        def handle() -> None:
            def asked() -> str:
                meta = fleet.client.get(f"{INVENTORIES}/{node}")["metadata"]
                token = meta.get("annotations", {}).get("gpuid.github.com/requestedAt")
                assert token is not None
                return str(token)

            change(fleet, node, lastHandledRequest=eventually(asked), **status)

        threads.append(threading.Thread(target=handle))
        threads[-1].start()

    yield answer
    for thread in threads:
        thread.join()


def test_read_waits_for_what_comes_out(
    fleet: LocalCluster,
    run: Callable[..., Result],
    answering: Callable[[str, dict[str, Any]], None],
) -> None:
    for name in "good", "bad":
        put(fleet, name)
    answering("good", {"gpuCount": 8})
    answering("bad", {"conditions": [ready("False", "TimedOut", "no end within 30s")]})
    result = run("read", "good", "bad", "good", "absent", "good/status")
    assert (result.exit_code, result.stderr) == (1, "")
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["NODE", "READY", "GPUS", "SECONDS", "RESULT"]
    by_node = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines}
    assert len(lines) == 4
    assert by_node["good"][:2] == ["True", "8"]
    assert by_node["good"][3] == "driver 570.86.15"
    assert by_node["bad"][0] == "False"
    assert by_node["bad"][3] == "TimedOut: no end within 30s"
    for name in "absent", "good/status":
        assert "no GPUInventory of this name" in by_node[name][3]


def test_read_is_good_when_all_nodes_are(
    fleet: LocalCluster,
    run: Callable[..., Result],
    answering: Callable[[str, dict[str, Any]], None],
) -> None:
    put(fleet, "n-1")
    put(fleet, "n-2")
    put(fleet, "gone", state="Departed")
    answering("n-1", {})
    answering("n-2", {})
    result = run("read", "--all", "-o", "json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert sorted((row["node"], row["ready"]) for row in rows) == [("n-1", True), ("n-2", True)]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"state": "Departed"}, "Departed"),
        ({"conditions": [ready("True", "Suspended")]}, "Suspended"),
        ({}, "NoAnswer"),
    ],
)
def test_read_says_why_nothing_comes(
    facts: dict[str, Any], reason: str, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    put(fleet, "n", **facts)
    result = run("read", "n", "--timeout", "1ms", "-o", "json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["ready"], row["reason"]) == (False, reason)


def test_a_read_that_someone_asked_for_later_will_do(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    put(fleet, "n")
    path = f"{INVENTORIES}/n"
    annotation = "gpuid.github.com/requestedAt"

    def someone_else() -> None:
        def asked() -> None:
            assert annotation in fleet.client.get(path)["metadata"].get("annotations", {})

        eventually(asked)
        # What the status keeps of a long token is its beginning.
        body = {"metadata": {"annotations": {annotation: "x" * 2000}}}
        fleet.client.send(Request("PATCH", path, body, content_type=MERGE))
        change(fleet, "n", lastHandledRequest="x" * 900 + "…")

    thread = threading.Thread(target=someone_else)
    thread.start()
    assert run("read", "n").exit_code == 0
    thread.join()


def test_it_works_as_a_plugin_of_kubectl(moved: None, fleet: LocalCluster, config: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "KUBECONFIG": str(config),
        "HOME": os.environ["HOME"],
    }

    def kubectl(*words: str) -> str:
        return subprocess.run(
            [fleet.kubectl_program, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "Usage: kubectl gpuid [OPTIONS]" in kubectl("gpuid", "--help")
    assert UUID_1 in kubectl("gpuid", "where", UUID_1)
    assert kubectl("__complete", "gpuid", "history", "n-").splitlines() == [
        "n-a",
        "n-b",
        "n-c",
        ":4",
    ]


def test_names_and_identifiers_are_completed(
    moved: None, contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def completed(*words: str) -> list[str]:
        command, *rest = words
        plugin_complete.answer(cli, [command, "--kubeconfig", str(contexts), *rest])
        return capsys.readouterr().out.splitlines()

    assert completed("where", "") == ["S-1\tpresent n-b, past n-a", "S9\tpresent n-c", ":4"]
    assert completed("where", "GPU-25") == [f"{UUID_1}\tpresent n-b, past n-a", ":4"]
    assert completed("history", "") == [
        *["n-a", "n-b", "n-c"],
        *["S-1\tpresent n-b, past n-a", "S9\tpresent n-c", ":4"],
    ]
    assert completed("read", "n-a", "n-") == ["n-b", "n-c", ":4"]
    assert completed("read", "--context", "down", "n-") == [":4"]


@pytest.mark.parametrize("variable", ["TERM", "NO_COLOR"])
def test_colours_are_for_terminals_that_want_them(variable: str, moved: None, config: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(config),
        "TERM": "xterm-256color",
        variable: "xterm-256color",
    }
    program = Path(sys.executable).with_name("kubectl-gpuid")
    with subprocess.Popen([program, "list"], env=environment, stdout=theirs) as process:
        os.close(theirs)
        text = b""
        # Linux ends the reading of a terminal whose other side is closed with an error.
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:
            assert text
        finally:
            os.close(ours)
    assert process.returncode == 0
    assert (b"\x1b[32mTrue" in text) is (variable == "TERM")
    assert b"n-a" in text


def test_with_the_operator_a_swap_is_read_and_found(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    names = ("gpu-plugin-a", "gpu-plugin-b")
    for name in names:
        fleet.add_node(name)
    try:
        with Operator(fleet):
            result = run("read", *names)

            def known() -> None:
                assert run("read", *names).exit_code == 0, result.output

            eventually(known)
            before = json.loads(run("list", "-o", "json").stdout)
            (serial, *_) = before[0]["serials"]
            fleet.write_smi(names[0], generate("h100", node=names[1]))
            fleet.write_smi(names[1], generate("h100", node=names[0]))
            assert run("read", "--all").exit_code == 0
            rows = json.loads(run("where", serial, "-o", "json").stdout)
            assert [(row["node"], row["present"]) for row in rows] == [
                (names[1], True),
                (names[0], False),
            ]
            assert rows[1]["until"] is not None
            entries = json.loads(run("history", serial, "-o", "json").stdout)
            assert [(one["node"], one["type"]) for one in entries] == [
                (names[0], "GPUAdded"),
                (names[0], "GPURemoved"),
                (names[1], "GPUAdded"),
            ]
    finally:
        for name in names:
            fleet.delete_node(name)
