"""kube-state-metrics with the project's configuration, on a real API server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.ports import free_ports
from tests.support.check_scripts import put_policy
from tests.support.gotools import go_tool
from tests.support.operators import Operator, eventually, read_well
from tests.support.prometheus import ROOT
from tests.support.quarantines import condemn
from tests.support.smi_fixtures import machine, serials

CONFIG = ROOT / "deployment" / "monitoring" / "kube-state-metrics.yaml"
RESOURCES = yaml.safe_load(CONFIG.read_text())["spec"]["resources"]
NODE = "gpu-counted"
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


@pytest.fixture(scope="module")
def samples(
    local_cluster: Callable[..., LocalCluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Samples]]:
    """What a scrape returns while a node, a policy and a quarantine have a status."""
    cluster = local_cluster(nodes=0)
    cluster.add_node(NODE, xml=machine(NODE))
    put_policy(cluster, "all", sinks=[{"name": "logs", "stdout": {}}])
    condemn(cluster, "rma", {"serial": serials(machine(NODE))[0]})
    port, telemetry = free_ports(2)
    with Operator(cluster), (tmp_path_factory.mktemp("ksm") / "log").open("wb") as log:
        eventually(lambda: read_well(cluster, NODE))
        process = subprocess.Popen(
            [
                go_tool("kube-state-metrics"),
                "--custom-resource-state-only",
                f"--custom-resource-state-config-file={CONFIG}",
                f"--kubeconfig={cluster.kubeconfig}",
                "--host=127.0.0.1",
                "--telemetry-host=127.0.0.1",
                f"--port={port}",
                f"--telemetry-port={telemetry}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield lambda: scrape(port)
        finally:
            process.terminate()
            process.wait()
    cluster.down()


def scrape(port: int) -> Samples:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    except OSError as error:
        raise AssertionError(str(error)) from None
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def names() -> set[str]:
    return {
        f"{resource['metricNamePrefix']}_{metric['name']}"
        for resource in RESOURCES
        for metric in resource["metrics"]
    }


def test_every_metric_of_every_kind_has_a_series(samples: Callable[[], Samples]) -> None:
    def all_are_there() -> None:
        assert names() - set(samples()) == set()

    eventually(all_are_there)
    assert {resource["groupVersionKind"]["kind"] for resource in RESOURCES} == {
        "GPUInventory",
        "GPUInventoryPolicy",
        "GPUQuarantine",
    }


def test_the_values_are_those_of_the_status(samples: Callable[[], Samples]) -> None:
    def value(metric: str, **labels: str) -> float:
        (found,) = [
            number
            for own, number in samples()[metric].items()
            if labels.items() <= dict(own).items()
        ]
        return found

    def as_the_status_says() -> None:
        assert value("kube_gpuinventory_gpus", node=NODE) == 2
        assert value("kube_gpuinventory_state", node=NODE, state="Present") == 1
        assert value("kube_gpuinventory_state", node=NODE, state="Departed") == 0
        assert value("kube_gpuinventory_condition", node=NODE, condition="Ready") == 1
        assert value("kube_gpuinventory_sink_pending", node=NODE, sink="logs") == 0
        assert value("kube_gpuinventory_info", node=NODE, policy="all", driver="570.86.15") == 1
        assert value("kube_gpuinventory_last_read_timestamp_seconds", node=NODE) > 1_700_000_000
        assert value("kube_gpuinventorypolicy_matched_nodes", policy="all") == 1
        assert value("kube_gpuquarantine_matches", quarantine="rma") == 1
        assert value("kube_gpuquarantine_condition", quarantine="rma", condition="Present") == 1

    eventually(as_the_status_says)
