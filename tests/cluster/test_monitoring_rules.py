"""deployment/monitoring/rules.yaml by promtool: parts that move, twins, restarts, every alert."""

from __future__ import annotations

import json
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


def dcgm(uuid: str = UUID, value: float = 79, **labels: str) -> Series:
    """What DCGM's exporter says of a GPU; the names and labels are DCGM's."""
    own = {"gpu": "0", "UUID": uuid, "device": "nvidia0", "Hostname": "host-1"} | labels
    return name("DCGM_FI_DEV_XID_ERRORS", **own), always(value)


def name(metric: str, **labels: str) -> str:
    return f"{metric}{{{','.join(f'{key}={json.dumps(text)}' for key, text in labels.items())}}}"


def check(tmp_path: Path, series: Sequence[Series], **tests: Any) -> None:
    """Run a unit test of promtool on series with a sample each minute."""
    values = [
        {
            "series": one,
            "values": " ".join("_" if value is None else repr(value) for value in samples),
        }
        for one, samples in series
    ]
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
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
    """From minute 10 to 14 nobody exports anything; the new process has another address."""
    series = [
        *info("n1", "c1", 0, 9, read=100),
        *info("n1", "c1", 15, read=100, instance="op-2"),
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
        *info("n2", "c2", 12, read=700, instance="op-2"),
        dcgm(),
    ]
    checks = at(PART, range(12), part("c1"), 79) + at(PART, range(12, 31), part("c2"), 79)
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


LEADER = gauge("gpuid_leader", 1, job="gpuid", namespace="gpuid", instance="op-1")
BUSY = [(name("gpuid_reads_total", result="Succeeded"), [60.0 * m for m in range(31)])]
NOT_READY = [
    gauge("gpuid_inventory_condition", 0, node=node, condition="Ready")
    for node in ("n1", "n2", "n3")
]


def timed_out(per_minute: float) -> Series:
    return name("gpuid_reads_total", result="TimedOut"), [per_minute * m for m in range(31)]


FIRES: dict[str, tuple[str, list[Series], list[Series], dict[str, str]]] = {
    "GPUIDNoLeader": (
        "9m",
        [gauge("gpuid_leader", 0, job="gpuid", namespace="gpuid", instance="op-1")],
        [LEADER],
        {"job": "gpuid", "namespace": "gpuid"},
    ),
    "GPUIDTwoLeaders": (
        "9m",
        [LEADER, gauge("gpuid_leader", 1, job="gpuid", namespace="gpuid", instance="op-2")],
        # The check runner of another release has a leader of its own.
        [LEADER, gauge("gpuid_leader", 1, job="checks", namespace="gpuid", instance="op-2")],
        {"job": "gpuid", "namespace": "gpuid"},
    ),
    "GPUIDReadsFailing": (
        "30m",
        [*BUSY, *NOT_READY, timed_out(90)],
        [*BUSY, *NOT_READY, timed_out(30)],
        {},
    ),
    "GPUIDQueueBacklog": (
        "25m",
        [gauge("gpuid_queue_depth", 80)],
        [(name("gpuid_queue_depth"), [80 if m % 10 else 0 for m in range(31)])],
        {},
    ),
    "GPUIDCheckFailed": (
        "12m",
        [gauge("gpuid_check_passed", 0, node="n1", check="grdma")],
        [gauge("gpuid_check_passed", 1, node="n1", check="grdma")],
        {"node": "n1", "check": "grdma"},
    ),
    "GPUIDRecordsDropped": (
        "15m",
        [counter("gpuid_records_dropped_total", 0, 3, sink="lake")],
        [gauge("gpuid_records_dropped_total", 3, sink="lake")],
        {"sink": "lake"},
    ),
    "GPUIDGPUGone": (
        "15m",
        [counter("gpuid_gpu_changes_total", 0, 1, type="GPULost")],
        [counter("gpuid_gpu_changes_total", 0, 1, type="GPUAdded")],
        {"type": "GPULost"},
    ),
    "GPUIDNodeNotRead": (
        "4000m",
        [gauge("gpuid_last_read_timestamp_seconds", 0, node="n1")],
        [gauge("gpuid_last_read_timestamp_seconds", 230_000, node="n1")],
        {"node": "n1"},
    ),
    "GPUIDNotAsExpected": (
        "20m",
        [gauge("gpuid_node_as_expected", 0, node="n1")],
        [gauge("gpuid_node_as_expected", 1, node="n1")],
        {"node": "n1"},
    ),
    "GPUIDQuarantinedPart": (
        "1m",
        [gauge("gpuid_gpu_quarantined", 1, node="n1", uuid="u", serial="s", quarantine="rma")],
        [],
        {"node": "n1", "uuid": "u", "serial": "s", "quarantine": "rma"},
    ),
    "GPUIDDuplicateGPU": (
        "12m",
        [gauge("gpuid_duplicate_gpus", 2)],
        [gauge("gpuid_duplicate_gpus", 0)],
        {},
    ),
    "GPUIDFallenOffTheBus": (
        "5m",
        [*info("n1", "c1", read=100), dcgm()],
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
"""For each alert: when it fires, series with which it does, with which it does not, its labels."""
for _alert, _condition, _time in (
    ("GPUIDNodeNotReady", "Ready", "30m"),
    ("GPUIDGPUUnhealthy", "Healthy", "5m"),
    ("GPUIDNotDelivered", "Delivered", "400m"),
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
    "70m",
    [
        gauge("gpuid_records_pending", 5, sink="lake"),
        gauge("gpuid_records_delivered_total", 7, sink="lake"),
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


def long(series: Sequence[Series], time: str) -> list[Series]:
    """The series, as long as an alert needs: the last step goes on."""
    minutes = int(time.removesuffix("m"))
    result: list[Series] = []
    for one, samples in series:
        step = (samples[-1] or 0) - (samples[-2] or 0) if "total" in one else 0
        more = [(samples[-1] or 0) + step * n for n in range(1, max(0, minutes - MINUTES) + 1)]
        result.append((one, [*samples, *more]))
    return result


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_when_it_should_and_only_then(tmp_path: Path, alert: str) -> None:
    time, fires, silent, labels = FIRES[alert]
    firing = {"alertname": alert, "alertstate": "firing"} | ALERTS[alert]["labels"] | labels
    expr = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    for series, samples in (
        (fires, [{"labels": name("ALERTS", **firing), "value": 1}]),
        (silent, []),
    ):
        check(
            tmp_path,
            long(series, time),
            promql_expr_test=[{"expr": expr, "eval_time": time, "exp_samples": samples}],
        )


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
