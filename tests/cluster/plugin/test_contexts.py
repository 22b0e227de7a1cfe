"""Several clusters, and clusters that refuse or do not know what is asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.cluster.plugin.inventories import (
    CRDS,
    HERE,
    UUID_1,
    put,
)
from tests.support.operators import INVENTORIES, eventually


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
    assert "context no:" in other
    result = run("where", UUID_1, "--context", "down", kubeconfig=contexts)
    assert result.exit_code == 1
    assert f"{UUID_1} not found" not in result.stderr
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
                " install gpuid-operator there, or choose another context\n"
            )

    # The API server takes the path away some time after the object.
    eventually(says_so)


def test_an_object_of_another_version_is_no_traceback(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    manifest, *_ = crd_manifests()
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
    assert "GPUInventory: state: " in result.stderr
    assert result.stderr.count("\n") == 1
