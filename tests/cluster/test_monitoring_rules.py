"""deployment/monitoring/rules.yaml by promtool: parts that move, twins, restarts, every alert."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ROOT, RULES, program

RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDS = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}

MINUTES = 30
UUID = "GPU-a"
Series = tuple[str, Sequence[float | None]]


def promtool(*arguments: str) -> None:
    """Run promtool, which says what differs."""
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def during(value: float, first: int, last: int) -> list[float | None]:
    """A sample each minute from `first` to `last`, and none outside."""
    return [value if first <= minute <= last else None for minute in range(MINUTES + 1)]


def always(value: float) -> list[float | None]:
    return during(value, 0, MINUTES)


def info(
    node: str, chassis: str, first: int = 0, last: int = MINUTES, *, read: float, **labels: str
) -> list[Series]:
    """What an operator exports from `first` to `last` about the GPU on this node."""
    instance = {"instance": "op-1", "job": "gpuid"} | labels
    gpu = {"uuid": UUID, "serial": "s1", "chassis": chassis, "pci": "p", "product": "H100"}
    return [
        (name("gpuid_gpu_info", node=node, **gpu, **instance), during(1, first, last)),
        (
            name("gpuid_last_read_timestamp_seconds", node=node, **instance),
            during(read, first, last),
        ),
    ]


def dcgm(uuid: str = UUID, first: int = 0, value: float = 79, **labels: str) -> Series:
    """What DCGM's exporter says of a GPU from `first` on; the names and labels are DCGM's."""
    own = {"gpu": "0", "UUID": uuid, "device": "nvidia0", "Hostname": "host-1"} | labels
    return name("DCGM_FI_DEV_XID_ERRORS", **own), during(value, first, MINUTES)


def name(metric: str, **labels: str) -> str:
    return f"{metric}{{{','.join(f'{key}={json.dumps(text)}' for key, text in labels.items())}}}"


def notation(samples: Sequence[float | None]) -> str:
    """Samples for promtool. As Prometheus does when a target or a series goes, a series that ends
    is marked as stale; without the mark, its last sample would count for another five minutes."""
    before = [None, *samples[:-1]]
    return " ".join(
        repr(value) if value is not None else "_" if last is None else "stale"
        for last, value in zip(before, samples, strict=True)
    )


def check(tmp_path: Path, series: Sequence[Series], **tests: Any) -> None:
    """Run a unit test of promtool on series with a sample each minute."""
    values = [{"series": one, "values": notation(samples)} for one, samples in series]
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        # Else the order is another in each run, and an alert comes a minute later where its group
        # is evaluated before the one that records its series.
        "group_eval_order": [group["name"] for group in GROUPS],
        "tests": [{"interval": "1m", "input_series": values, **tests}],
    }
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump(case, sort_keys=False))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def at(expr: str, minutes: Sequence[int], labels: str, value: float) -> list[dict[str, Any]]:
    """The expression has exactly this one sample at each of the minutes."""
    samples = [{"labels": labels, "value": value}]
    return [{"expr": expr, "eval_time": f"{m}m", "exp_samples": samples} for m in minutes]


def part(chassis: str) -> str:
    """The labels of DCGM's series with the part behind it."""
    own = {"gpu": "0", "UUID": UUID, "device": "nvidia0", "Hostname": "host-1"}
    return name("gpuid:DCGM_FI_DEV_XID_ERRORS:part", **own, serial="s1", chassis=chassis)


PART = "gpuid:DCGM_FI_DEV_XID_ERRORS:part"


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))


def test_a_gpu_that_moves_between_nodes_has_one_part_at_any_time(tmp_path: Path) -> None:
    """From minute 10 to 15 both nodes have it: the one that was read last counts."""
    series = [
        *info("n1", "c1", 0, 15, read=100),
        *info("n2", "c2", 10, read=700),
        dcgm(),
    ]
    checks = at(PART, range(10), part("c1"), 79) + at(PART, range(10, 31), part("c2"), 79)
    check(tmp_path, series, promql_expr_test=checks)


def test_a_gpu_that_two_nodes_hold_has_one_part(tmp_path: Path) -> None:
    series = [*info("n1", "c1", read=700), *info("n2", "c2", read=100), dcgm()]
    check(tmp_path, series, promql_expr_test=at(PART, range(31), part("c1"), 79))


def test_two_nodes_that_were_read_in_the_same_second_are_no_error(tmp_path: Path) -> None:
    series = [*info("n1", "c1", read=700), *info("n2", "c1", read=700), dcgm()]
    check(tmp_path, series, promql_expr_test=at(PART, range(31), part("c1"), 79))


def test_a_restart_of_the_operator_leaves_no_gap(tmp_path: Path) -> None:
    """From minute 10 to 17 nobody exports anything; the new process has another address."""
    series = [
        *info("n1", "c1", 0, 9, read=100),
        *info("n1", "c1", 18, read=100, instance="op-2"),
        dcgm(),
    ]
    check(tmp_path, series, promql_expr_test=at(PART, range(31), part("c1"), 79))


def test_a_new_leader_beside_the_old_one_is_no_error(tmp_path: Path) -> None:
    """Both export from minute 10 to 12, and the GPU has moved meanwhile."""
    series = [
        *info("n1", "c1", 0, 12, read=100),
        *info("n2", "c2", 10, read=600, instance="op-2"),
        dcgm(),
    ]
    checks = at(PART, range(10), part("c1"), 79) + at(PART, range(10, 31), part("c2"), 79)
    check(tmp_path, series, promql_expr_test=checks)


def test_a_part_that_left_a_node_during_a_gap_is_on_the_new_node(tmp_path: Path) -> None:
    series = [
        *info("n1", "c1", 0, 9, read=100),
        *info("n2", "c2", 18, read=700, instance="op-2"),
        dcgm(),
    ]
    checks = at(PART, range(18), part("c1"), 79) + at(PART, range(18, 31), part("c2"), 79)
    check(tmp_path, series, promql_expr_test=checks)


def test_a_part_that_left_a_node_is_not_there_although_that_node_was_read_last(
    tmp_path: Path,
) -> None:
    """Its last series counts only while nobody exports the GPU."""
    series = [
        *info("n1", "c1", 0, 9, read=1000),
        *info("n2", "c2", 5, read=700),
        dcgm(),
    ]
    checks = at(PART, range(10), part("c1"), 79) + at(PART, range(10, 31), part("c2"), 79)
    check(tmp_path, series, promql_expr_test=checks)


def test_a_gpu_that_nobody_has_any_more_has_no_part(tmp_path: Path) -> None:
    series = [*info("n1", "c1", 0, 9, read=100), dcgm()]
    nothing = {"expr": PART, "eval_time": "25m", "exp_samples": []}
    check(tmp_path, series, promql_expr_test=[nothing])


def test_each_cluster_has_parts_of_its_own(tmp_path: Path) -> None:
    """The same UUID in two clusters, of which one Prometheus knows."""
    series = [
        *info("n1", "c1", read=100, cluster="east"),
        *info("n1", "c2", read=200, cluster="west"),
        dcgm(cluster="east"),
    ]
    labels = part("c1").replace("{", '{cluster="east",')
    check(tmp_path, series, promql_expr_test=at(PART, range(31), labels, 79))


def test_the_slices_of_a_gpu_belong_to_its_part(tmp_path: Path) -> None:
    """DCGM has a series for each MIG device, with the UUID of the GPU."""
    series = [*info("n1", "c1", read=100), *(dcgm(GPU_I_ID=str(n)) for n in range(2))]
    count = [{"expr": f"count({PART})", "eval_time": "9m", "exp_samples": [{"value": 2}]}]
    check(tmp_path, series, promql_expr_test=count)


def test_every_series_of_dcgm_is_joined_alike() -> None:
    rules = {rule["record"]: rule["expr"] for rule in GROUPS[0]["rules"]}
    joined = {one: expr for one, expr in rules.items() if one.endswith(":part")}
    assert len(joined) == 9
    metrics = [one.split(":")[1] for one in joined]
    assert len({expr.replace(m, "") for m, expr in zip(metrics, joined.values(), strict=True)}) == 1


def counter(metric: str, first: float, later: float, **labels: str) -> Series:
    """A counter that jumps at minute 10."""
    return name(metric, **labels), [first if m < 10 else later for m in range(MINUTES + 1)]


def gauge(metric: str, value: float, **labels: str) -> Series:
    return name(metric, **labels), always(value)


def later(metric: str, value: float, **labels: str) -> Series:
    """A series that begins at minute 10."""
    return name(metric, **labels), during(value, 10, MINUTES)


LEADER = gauge("gpuid_leader", 1, job="gpuid", namespace="gpuid", instance="op-1")
BUSY = [(name("gpuid_reads_total", result="Succeeded"), [60.0 * m for m in range(31)])]
NOT_READY = [
    gauge("gpuid_inventory_condition", 0, node=node, condition="Ready")
    for node in ("n1", "n2", "n3")
]


def timed_out(per_minute: float) -> Series:
    return name("gpuid_reads_total", result="TimedOut"), [per_minute * m for m in range(31)]


FIRES: dict[str, tuple[int, list[Series], list[Series], dict[str, str]]] = {
    "GPUIDNoLeader": (
        5,
        [gauge("gpuid_leader", 0, job="gpuid", namespace="gpuid", instance="op-1")],
        [LEADER],
        {"job": "gpuid", "namespace": "gpuid"},
    ),
    "GPUIDTwoLeaders": (
        2,
        [LEADER, gauge("gpuid_leader", 1, job="gpuid", namespace="gpuid", instance="op-2")],
        # The check runner of another release has a leader of its own.
        [LEADER, gauge("gpuid_leader", 1, job="checks", namespace="gpuid", instance="op-2")],
        {"job": "gpuid", "namespace": "gpuid"},
    ),
    "GPUIDReadsFailing": (
        16,
        [*BUSY, *NOT_READY, timed_out(90)],
        [*BUSY, *NOT_READY, timed_out(30)],
        {},
    ),
    "GPUIDQueueBacklog": (
        30,
        [(name("gpuid_queue_depth"), [80 if m > 9 else 0 for m in range(31)])],
        [(name("gpuid_queue_depth"), [80 if m % 10 else 0 for m in range(31)])],
        {},
    ),
    "GPUIDCheckFailed": (
        10,
        [gauge("gpuid_check_passed", 0, node="n1", check="grdma")],
        [gauge("gpuid_check_passed", 1, node="n1", check="grdma")],
        {"node": "n1", "check": "grdma"},
    ),
    "GPUIDRecordsDropped": (
        10,
        [counter("gpuid_records_dropped_total", 0, 3, sink="lake")],
        [gauge("gpuid_records_dropped_total", 3, sink="lake")],
        {"sink": "lake"},
    ),
    "GPUIDGPUGone": (
        10,
        [counter("gpuid_gpu_changes_total", 0, 1, type="GPULost")],
        [counter("gpuid_gpu_changes_total", 0, 1, type="GPUAdded")],
        {"type": "GPULost"},
    ),
    "GPUIDNodeNotRead": (
        2 * 24 * 60 + 1 + 60,
        [gauge("gpuid_last_read_timestamp_seconds", 0, node="n1")],
        [gauge("gpuid_last_read_timestamp_seconds", 3600, node="n1")],
        {"node": "n1"},
    ),
    "GPUIDNotAsExpected": (
        15,
        [gauge("gpuid_node_as_expected", 0, node="n1")],
        [gauge("gpuid_node_as_expected", 1, node="n1")],
        {"node": "n1"},
    ),
    "GPUIDQuarantinedPart": (
        10,
        [later("gpuid_gpu_quarantined", 1, node="n1", uuid="u", serial="s", quarantine="rma")],
        [later("gpuid_gpu_quarantined", 0, node="n1", uuid="u", serial="s", quarantine="rma")],
        {"node": "n1", "uuid": "u", "serial": "s", "quarantine": "rma"},
    ),
    "GPUIDDuplicateGPU": (
        10,
        [gauge("gpuid_duplicate_gpus", 2)],
        [gauge("gpuid_duplicate_gpus", 0)],
        {},
    ),
    "GPUIDFallenOffTheBus": (
        10,
        [*info("n1", "c1", read=100), dcgm(first=10)],
        [*info("n1", "c1", read=100), dcgm(value=31)],
        {
            "gpu": "0",
            "UUID": UUID,
            "device": "nvidia0",
            "Hostname": "host-1",
            "serial": "s1",
            "chassis": "c1",
        },
    ),
}
"""For each alert: the first minute in which it fires, series with which it does, series with which
it never does, its labels."""
for _alert, _condition, _time in (
    ("GPUIDNodeNotReady", "Ready", 30),
    ("GPUIDGPUUnhealthy", "Healthy", 5),
    ("GPUIDNotDelivered", "Delivered", 6 * 60),
):
    FIRES[_alert] = (
        _time,
        [gauge("gpuid_inventory_condition", 0, node="n1", condition=_condition)],
        [
            gauge("gpuid_inventory_condition", -1, node="n1", condition=_condition),
            gauge("gpuid_inventory_condition", 0, node="n1", condition="Other"),
        ],
        {"node": "n1"},
    )
FIRES["GPUIDSinkBehind"] = (
    # The sink gets its last record in minute 10.
    10 + 30 + 30,
    [
        gauge("gpuid_records_pending", 5, sink="lake"),
        (name("gpuid_records_delivered_total", sink="lake"), [7.0 * min(m, 10) for m in range(31)]),
    ],
    [
        gauge("gpuid_records_pending", 5, sink="lake"),
        (name("gpuid_records_delivered_total", sink="lake"), [7.0 * m for m in range(31)]),
    ],
    {"sink": "lake"},
)


def test_every_alert_has_a_case_and_a_runbook() -> None:
    assert set(FIRES) == set(ALERTS)
    assert {path.stem for path in RUNBOOKS.glob("GPUID*.md")} == set(ALERTS)
    for alert, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{alert}.md")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        page = (RUNBOOKS / f"{alert}.md").read_text()
        assert page.startswith(f"# {alert}\n")
        parts = re.findall(r"^## (.+)\n\n\S", page, re.MULTILINE)
        assert parts == ["Meaning", "Look", "Do", "Silence"], alert


def test_the_table_of_runbooks_is_that_of_the_rules() -> None:
    row = r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \| (\w+) \| [^|]+ \|$"
    table = re.findall(row, (RUNBOOKS / "README.md").read_text(), re.MULTILINE)
    rules = [(alert, rule["labels"]["severity"], rule["for"]) for alert, rule in ALERTS.items()]
    assert table == rules


def long(series: Sequence[Series], minutes: int) -> list[Series]:
    """The series, as long as an alert needs: the last step goes on."""
    result: list[Series] = []
    for one, samples in series:
        step = (samples[-1] or 0) - (samples[-2] or 0) if "total" in one else 0
        more = [(samples[-1] or 0) + step * n for n in range(1, max(0, minutes - MINUTES) + 1)]
        result.append((one, [*samples, *more]))
    return result


def firing(alert: str, **labels: str) -> list[dict[str, Any]]:
    """The one sample of an alert that fires."""
    said = {"alertname": alert, "alertstate": "firing"} | ALERTS[alert]["labels"] | labels
    return [{"labels": name("ALERTS", **said), "value": 1}]


def alerts(alert: str, minutes: int, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """At this minute, the alert fires with these samples and no others."""
    expr = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {"expr": expr, "eval_time": f"{minutes}m", "exp_samples": samples}


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_in_time_and_not_before(tmp_path: Path, alert: str) -> None:
    first, fires, _, labels = FIRES[alert]
    expected = [alerts(alert, first - 1, []), alerts(alert, first, firing(alert, **labels))]
    check(tmp_path, long(fires, first), promql_expr_test=expected)


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_for_its_cluster_only(tmp_path: Path, alert: str) -> None:
    """One Prometheus has the series of two clusters, and one of them has no problem."""
    first, fires, silent, labels = FIRES[alert]
    series = [*of_cluster("east", fires), *of_cluster("west", silent)]
    expected = [alerts(alert, first, firing(alert, cluster="east", **labels))]
    check(tmp_path, long(series, first), promql_expr_test=expected)


def of_cluster(cluster: str, series: Sequence[Series]) -> list[Series]:
    """The series with the external label of a cluster."""
    return [(one.replace("{", f'{{cluster="{cluster}",'), samples) for one, samples in series]


def test_one_alert_at_any_time_says_that_the_leader_is_gone_altogether(tmp_path: Path) -> None:
    """All replicas go after minute 9. An hour later, no series has their labels any more."""
    alert, leader = "GPUIDNoLeader", {"job": "gpuid", "namespace": "gpuid"}
    series = [(name("gpuid_leader", **leader, instance="op-1"), during(1, 0, 9))]
    expected = [
        *(alerts(alert, minute, []) for minute in range(15)),
        *(alerts(alert, minute, firing(alert, **leader)) for minute in range(15, 70)),
        *(alerts(alert, minute, firing(alert)) for minute in range(70, 100)),
    ]
    check(tmp_path, series, promql_expr_test=expected)


def test_an_operator_that_was_never_scraped_has_no_leader(tmp_path: Path) -> None:
    alert = "GPUIDNoLeader"
    expected = [alerts(alert, 4, []), alerts(alert, 5, firing(alert))]
    check(tmp_path, [dcgm()], promql_expr_test=expected)


def test_one_node_whose_reads_fail_is_not_said_of_all(tmp_path: Path) -> None:
    """It is read every few minutes, those that can be read once a day."""
    ready = [
        gauge("gpuid_inventory_condition", float(node != "n1"), node=node, condition="Ready")
        for node in ("n1", "n2", "n3")
    ]
    expr = 'ALERTS{alertname="GPUIDReadsFailing"}'
    series = [gauge("gpuid_reads_total", 3, result="Succeeded"), timed_out(1), *ready]
    test = {"expr": expr, "eval_time": "30m", "exp_samples": []}
    check(tmp_path, series, promql_expr_test=[test])
