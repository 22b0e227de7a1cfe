"""A real Prometheus scrapes the operator, and DCGM's series: every expression finds data.

DCGM's exporter needs a GPU, so a page with its real series names and labels stands in for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from tests.support.check_scripts import Probe, put_policy
from tests.support.documented_commands import FENCED
from tests.support.operators import Operator, condition, eventually
from tests.support.prometheus import ROOT, RULES, Prometheus, running, selectors
from tests.support.quarantines import condemn
from tests.support.smi_fixtures import lost, machine, serials, uuids

DASHBOARDS = sorted((ROOT / "deployment" / "monitoring" / "dashboards").glob("*.json"))
NODE, SICK, BROKEN = "gpu-seen", "gpu-sick", "gpu-broken"
DCGM = (
    "XID_ERRORS",
    "ECC_SBE_VOL_TOTAL",
    "ECC_DBE_VOL_TOTAL",
    "ECC_SBE_AGG_TOTAL",
    "ECC_DBE_AGG_TOTAL",
    "CORRECTABLE_REMAPPED_ROWS",
    "UNCORRECTABLE_REMAPPED_ROWS",
    "ROW_REMAP_FAILURE",
    "ROW_REMAP_PENDING",
)
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
EXPRESSIONS = {
    rule.get("record") or rule["alert"]: rule["expr"] for group in GROUPS for rule in group["rules"]
}


def dcgm_page(gpus: list[str]) -> bytes:
    """What DCGM's exporter says of a node's GPUs."""
    lines = [
        f'DCGM_FI_DEV_{name}{{gpu="{index}",UUID="{uuid}",device="nvidia{index}",'
        f'modelName="NVIDIA H100 80GB HBM3",Hostname="host-1"}} {79 if "XID" in name else 1}'
        for name in DCGM
        for index, uuid in enumerate(gpus)
    ]
    return "\n".join([*lines, ""]).encode()


@pytest.fixture(scope="module")
def dcgm() -> Iterator[int]:
    """The port of a page with DCGM's series of NODE."""
    page = dcgm_page(uuids(machine(NODE)))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def cluster(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A node with much to see; one whose GPU will be lost; one whose nvidia-smi is broken."""
    made = local_cluster(nodes=0)
    xml = machine(NODE).replace("<remapped_row_pending>No", "<remapped_row_pending>Yes")
    made.add_node(NODE, xml=xml)
    made.add_node(SICK, xml=machine(SICK))
    made.add_node(BROKEN, xml="no XML")
    condemn(made, "rma", {"serial": serials(machine(NODE))[0]})
    check = Probe(made, "links")
    check.answer(NODE, "exit 1")
    check.answer(SICK, "exit 0")
    put_policy(
        made,
        "all",
        expect={"gpus": 2},
        checks=[check.check(interval="1h")],
        sinks=[
            {"name": "logs", "stdout": {}},
            {"name": "down", "http": {"url": "http://127.0.0.1:9/", "insecure": True}},
        ],
    )
    yield made
    made.down()


@pytest.fixture(scope="module")
def operator(cluster: LocalCluster) -> Iterator[Operator]:
    with Operator(cluster, POLICY_CHECKS="true") as operator:
        for node, kind, shown in (
            (NODE, "Quarantined", ("True", "Quarantined")),
            (NODE, "Healthy", ("False", "GPUUnhealthy")),
            (NODE, "ChecksPassed", ("False", "ChecksFailed")),
            (BROKEN, "Ready", ("False", "Unparsable")),
        ):
            eventually(partial(holds, cluster, node, kind, shown))
        yield operator


def holds(cluster: LocalCluster, node: str, kind: str, shown: tuple[str, str]) -> None:
    assert condition(cluster, node, kind) == shown


@pytest.fixture(scope="module")
def prometheus(
    cluster: LocalCluster,
    operator: Operator,
    dcgm: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with running(folder, {"gpuid-operator": operator.port, "dcgm-exporter": dcgm}) as server:
        # What changes while Prometheus looks: a GPU is lost.
        cluster.write_smi(SICK, lost(machine(SICK), 0))
        cluster.restart_plugin(SICK)

        def all_is_recorded() -> None:
            assert len(server.query("gpuid:gpu_info:latest")) == 4
            assert server.query('increase(gpuid_gpu_changes_total{type="GPULost"}[1m]) > 0')

        eventually(all_is_recorded)
        yield server


def has_data(prometheus: Prometheus, expression: str) -> None:
    for selector in selectors(expression):
        assert prometheus.query(selector), f"{selector} has no series"


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_series_of_a_rule_exists(prometheus: Prometheus, name: str) -> None:
    """An alert that does not fire has no result, so each of its selectors has to have one."""
    expression = EXPRESSIONS[name]
    prometheus.query(expression)

    def has_all_data() -> None:
        has_data(prometheus, expression)
        if name.startswith("gpuid:"):
            assert prometheus.query(expression), name

    eventually(has_all_data)


def test_no_rule_fails(prometheus: Prometheus) -> None:
    def evaluated() -> None:
        rules = prometheus.rules()
        assert {rule["name"] for rule in rules} == set(EXPRESSIONS)
        assert all(rule["health"] == "ok" for rule in rules), rules

    eventually(evaluated)


def queries(dashboard: Path) -> list[tuple[str, str]]:
    """Title and query of each panel, with values for the variables."""
    values = {
        "$node": NODE,
        "$serial": serials(machine(NODE))[0],
        "$__rate_interval": "30s",
        "$__range": "5m",
    }
    found = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in values.items():
                query = query.replace(variable, value)
            assert "$" not in query
            found.append((panel["title"], query))
    return found


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: str(path.stem))
def test_every_panel_has_data(prometheus: Prometheus, dashboard: Path) -> None:
    def shown() -> None:
        empty = [title for title, query in queries(dashboard) if not prometheus.query(query)]
        assert empty == []

    eventually(shown, within=60)


def test_every_expression_of_the_documentation_has_data(prometheus: Prometheus) -> None:
    expressions = [
        line.replace("NODE", NODE)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for language, block in FENCED.findall(page.read_text())
        if language == "promql"
        for line in block.splitlines()
    ]
    assert len(expressions) >= 6

    def answered() -> None:
        assert [one for one in expressions if not prometheus.query(one)] == []

    eventually(answered, within=60)


def test_the_part_behind_dcgms_series(prometheus: Prometheus) -> None:
    xml = machine(NODE)

    def joined() -> None:
        # A scrape that fails ends a series of DCGM until the next one.
        found = {
            (one["metric"]["UUID"], one["metric"]["serial"], one["value"][1])
            for one in prometheus.query("gpuid:DCGM_FI_DEV_XID_ERRORS:part")
        }
        assert found == {(u, s, "79") for u, s in zip(uuids(xml), serials(xml), strict=True)}

    eventually(joined)


def test_what_is_wrong_fires(prometheus: Prometheus) -> None:
    """Those without a delay; promtool's tests show the others."""

    def firing() -> None:
        alerts = {
            one["metric"]["alertname"] for one in prometheus.query('ALERTS{alertstate="firing"}')
        }
        assert alerts == {"GPUIDQuarantinedPart", "GPUIDFallenOffTheBus", "GPUIDGPUGone"}

    eventually(firing)
