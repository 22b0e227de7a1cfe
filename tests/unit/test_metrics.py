"""Metrics: names and labels as promised, what goes with a node or a sink, both formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gpuid_operator.telemetry.metrics import Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
GPU = ("GPU-25e04bdf", "1652823054567", "1821325191344", "00000000:29:00.0", "NVIDIA GB200")

PROMISED = {
    ("gpuid_gpu_info", ("chassis", "node", "pci", "product", "serial", "uuid")),
    ("gpuid_last_read_timestamp_seconds", ("node",)),
    ("gpuid_reads_total", ("result",)),
    ("gpuid_read_seconds_count", ()),
    ("gpuid_gpu_changes_total", ("type",)),
    ("gpuid_records_pending", ("sink",)),
    ("gpuid_records_delivered_total", ("sink",)),
    ("gpuid_records_dropped_total", ("sink",)),
    ("gpuid_delivery_failures_total", ("sink",)),
    ("gpuid_delivery_seconds_count", ("sink",)),
    ("gpuid_check_passed", ("check", "node")),
    ("gpuid_node_as_expected", ("node",)),
    ("gpuid_gpu_quarantined", ("node", "quarantine", "serial", "uuid")),
    ("gpuid_inventory_condition", ("condition", "node")),
    ("gpuid_gpu_health", ("kind", "node", "serial", "uuid")),
    ("gpuid_duplicate_gpus", ()),
    ("gpuid_queue_depth", ()),
    ("gpuid_leader", ()),
    ("gpuid_asyncio_tasks", ()),
    ("gpuid_export_success_total", ("node", "pod")),
    ("gpuid_export_failure_total", ("node", "pod")),
}


def filled() -> Metrics:
    metrics = Metrics()
    metrics.set_gpus("node-1", [GPU])
    metrics.set_last_read("node-1", 1_780_000_000.25)
    metrics.set_checks("node-1", {"grdma": True})
    metrics.set_as_expected("node-1", True)
    metrics.set_quarantined("node-1", [("GPU-25e04bdf", "1652823054567", "rma")])
    metrics.set_conditions("node-1", {"Ready": 1.0, "Healthy": 0.0, "Unique": -1.0})
    metrics.set_health("node-1", [("GPU-25e04bdf", "1652823054567", "eccUncorrected", 2)])
    metrics.export_succeeded("node-1", "plugin-abc")
    metrics.reads.labels("Succeeded").inc()
    metrics.read_seconds.observe(0.2)
    metrics.gpu_changes.labels("GPUAdded").inc()
    metrics.records_pending.labels("logs").set(3)
    for counter in (
        metrics.records_delivered,
        metrics.records_dropped,
        metrics.delivery_failures,
    ):
        counter.labels("logs").inc()
    metrics.delivery_seconds.labels("logs").observe(0.01)
    return metrics


def families(metrics: Metrics, accept: str = "") -> list[Metric]:
    content_type, body = metrics.render(accept)
    if content_type.startswith("application/openmetrics-text"):
        return list(openmetrics.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]
    return list(text_string_to_metric_families(body.decode()))


def samples(
    metrics: Metrics, accept: str = ""
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(metrics, accept)
        for sample in family.samples
        if sample.name.startswith("gpuid_")
    }


def series_of(metrics: Metrics, label: str, value: str) -> set[str]:
    return {name for name, labels in samples(metrics) if (label, value) in labels}


@pytest.mark.parametrize("accept", ["", OPENMETRICS, "text/plain; version=1.0.0"])
def test_names_and_labels_are_the_promised_ones(accept: str) -> None:
    found = {
        (name, tuple(label for label, _ in labels)) for name, labels in samples(filled(), accept)
    }
    histogram_parts = {
        (name, labels)
        for name, labels in found
        if name.endswith(("_seconds_bucket", "_seconds_sum"))
    }
    assert found - histogram_parts == PROMISED


def test_values() -> None:
    values = samples(filled())
    labels = dict(zip(("uuid", "serial", "chassis", "pci", "product"), GPU, strict=True))
    assert values["gpuid_gpu_info", tuple(sorted({"node": "node-1", **labels}.items()))] == 1
    assert values["gpuid_last_read_timestamp_seconds", (("node", "node-1"),)] == 1_780_000_000.25
    assert values["gpuid_check_passed", (("check", "grdma"), ("node", "node-1"))] == 1


def test_formats_agree() -> None:
    metrics = filled()
    assert samples(metrics) == samples(metrics, OPENMETRICS)


def test_openmetrics_ends_with_its_end_mark_and_the_text_format_has_none() -> None:
    metrics = filled()
    content_type, body = metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert body.count(b"# EOF") == 1
    content_type, body = metrics.render("")
    assert content_type.startswith("text/plain")
    assert b"# EOF" not in body


def test_every_family_is_a_gauge_where_it_can_go_down() -> None:
    kinds = {family.name: family.type for family in families(filled())}
    for name in ("gpuid_gpu_info", "gpuid_last_read_timestamp_seconds", "gpuid_check_passed"):
        assert kinds[name] == "gauge"
        assert [family.name for family in families(filled())].count(name) == 1


def test_a_second_report_replaces_the_first() -> None:
    metrics = filled()
    other = ("GPU-other", "2", "", "00000000:2A:00.0", "NVIDIA H100")
    metrics.set_gpus("node-1", [other])
    metrics.set_checks("node-1", {"grdma": False})
    uuids = {dict(labels)["uuid"] for name, labels in samples(metrics) if name == "gpuid_gpu_info"}
    assert uuids == {"GPU-other"}
    assert samples(metrics)["gpuid_check_passed", (("check", "grdma"), ("node", "node-1"))] == 0


def test_a_node_without_gpus_has_no_info() -> None:
    metrics = filled()
    metrics.set_gpus("node-1", [])
    assert "gpuid_gpu_info" not in series_of(metrics, "node", "node-1")


def test_a_node_that_is_gone_takes_its_series_along() -> None:
    metrics = filled()
    metrics.set_gpus("node-2", [GPU])
    metrics.set_checks("node-2", {"second": False})
    metrics.forget_node("node-1")
    metrics.forget_node("never-seen")
    assert series_of(metrics, "node", "node-1") == set()
    assert series_of(metrics, "node", "node-2") == {"gpuid_gpu_info", "gpuid_check_passed"}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_exports_are_counted_by_node_and_newest_pod(accept: str) -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.export_succeeded("node-1", "first")
    metrics.export_failed("node-1", "second")
    metrics.export_failed("node-1", "second")
    metrics.export_failed("node-2", 'odd"')
    found = {
        (name.removeprefix("gpuid_export_"), dict(labels)["node"], dict(labels)["pod"]): value
        for (name, labels), value in samples(metrics, accept).items()
        if name.startswith("gpuid_export_")
    }
    assert found == {
        ("success_total", "node-1", "second"): 0,
        ("failure_total", "node-1", "second"): 2,
        ("success_total", "node-2", 'odd"'): 0,
        ("failure_total", "node-2", 'odd"'): 1,
    }
    kinds = {family.name: family.type for family in families(metrics, accept)}
    assert kinds["gpuid_export_success"] == kinds["gpuid_export_failure"] == "counter"


def test_a_condition_that_is_gone_takes_its_series_along() -> None:
    metrics = filled()
    metrics.set_conditions("node-1", {"Ready": -1.0})
    assert series_of(metrics, "condition", "Healthy") == set()
    assert (
        samples(metrics)["gpuid_inventory_condition", (("condition", "Ready"), ("node", "node-1"))]
        == -1
    )


def test_a_gpu_without_errors_has_no_health_series() -> None:
    metrics = filled()
    metrics.set_health("node-1", [("GPU-25e04bdf", "1652823054567", "eccUncorrected", 0)])
    assert "gpuid_gpu_health" not in series_of(metrics, "node", "node-1")


def test_a_check_that_is_gone_takes_its_series_along() -> None:
    metrics = filled()
    metrics.set_checks("node-1", {"second": False})
    assert series_of(metrics, "check", "grdma") == set()
    assert series_of(metrics, "check", "second") == {"gpuid_check_passed"}


def test_a_sink_that_is_gone_takes_its_series_along() -> None:
    metrics = filled()
    metrics.records_pending.labels("other").set(1)
    metrics.forget_sink("logs")
    metrics.forget_sink("never-seen")
    assert series_of(metrics, "sink", "logs") == set()
    assert series_of(metrics, "sink", "other") == {"gpuid_records_pending"}


def test_two_instances_share_nothing() -> None:
    one, two = filled(), Metrics()
    assert series_of(one, "node", "node-1")
    assert not series_of(two, "node", "node-1")
    assert one.registry is not two.registry


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20))
def test_any_label_value_survives(value: str) -> None:
    metrics = Metrics()
    metrics.set_gpus("node", [("uuid", value, "", "", "")])
    _, body = metrics.render()
    info = [line for line in body.decode().split("\n") if line.startswith("gpuid_gpu_info{")]
    assert len(info) == 1
    [family] = text_string_to_metric_families(info[0] + "\n")
    assert family.samples[0].labels["serial"] == value


def test_a_lone_surrogate_does_not_break_the_scrape() -> None:
    metrics = Metrics()
    metrics.set_gpus("node", [("uuid", "\ud800", "", "", "")])
    assert 'serial="?"' in metrics.render()[1].decode()
