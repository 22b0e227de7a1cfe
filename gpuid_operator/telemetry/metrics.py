"""Metrics of the operator, in a registry of their own, and their exposition."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

# Prometheus does not need a `…_created` series beside every counter. The library has no switch per
# registry.
disable_created_metrics()  # type: ignore[no-untyped-call]

_READ_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_DELIVERY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OPENMETRICS_END: Final = b"# EOF\n"

GPU = tuple[str, str, str, str, str]
"""Labels of `gpuid_gpu_info`: uuid, serial, chassis, pci, product; empty when unknown."""


class NodeGauge:
    """A gauge with series per node, kept as the lines that a scrape returns.

    A fleet of 5,000 nodes has 40,000 series of `gpuid_gpu_info`. As children of a Gauge they take
    40 MB, and a scrape would hold up the event loop for 0.3 s; as lines 8 MB and 4 ms.
    """

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...]) -> None:
        self._name = name
        self._labels = labels
        self._head = f"# HELP {name} {documentation}\n# TYPE {name} gauge\n".encode()
        self._lines: dict[Hashable, bytes] = {}

    def set(self, key: Hashable, series: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """Replace all series of `key` by (label values, value) pairs."""
        self._lines[key] = "".join(
            f"{self._name}{{{self._label_text(values)}}} {value!r}\n" for values, value in series
        ).encode("utf-8", "replace")

    def forget(self, key: Hashable) -> None:
        self._lines.pop(key, None)

    def render(self) -> bytes:
        return b"".join((self._head, *self._lines.values()))

    def _label_text(self, values: tuple[str, ...]) -> str:
        return ",".join(
            f'{label}="{_escape(value)}"' for label, value in zip(self._labels, values, strict=True)
        )


class PodCounter:
    """A counter of gpuid, with a series for the newest pod of each node, kept as NodeGauge's.

    gpuid keeps the series of every pod that it ever saw.
    """

    labels: Final = ("node", "pod")

    def __init__(self, name: str, documentation: str) -> None:
        """`name` is without `_total`."""
        self.name = name
        self.documentation = documentation
        self._counts: dict[str, tuple[str, int]] = {}

    def add(self, node: str, pod: str, count: int) -> None:
        """Count; 0 begins the series, since `increase` does not see a counter's first value."""
        known, counted = self._counts.get(node, (pod, 0))
        self._counts[node] = (pod, count + (counted if known == pod else 0))

    def forget(self, node: str) -> None:
        self._counts.pop(node, None)

    def render(self, *, openmetrics: bool) -> bytes:
        series = f"{self.name}_total"
        family = self.name if openmetrics else series
        lines = [f"# HELP {family} {self.documentation}\n# TYPE {family} counter\n"]
        lines += [
            f'{series}{{node="{_escape(node)}",pod="{_escape(pod)}"}} {count}\n'
            for node, (pod, count) in self._counts.items()
        ]
        return "".join(lines).encode("utf-8", "replace")


class Metrics:
    """Every metric of the operator; two instances in one process know nothing of each other.

    The attributes are named as the metrics, without prefix and `_total`. Series that belong to a
    node are set through the methods, so that they can go when the node goes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)

        self.reads = counter(
            "gpuid_reads_total",
            "Reads of a node's GPUs, by result (Succeeded or why not).",
            ["result"],
        )
        self.read_seconds = histogram(
            "gpuid_read_seconds", "Time that reading one node took.", buckets=_READ_BUCKETS
        )
        self.gpu_changes = counter(
            "gpuid_gpu_changes_total", "History entries written, by type.", ["type"]
        )
        self.records_pending = gauge(
            "gpuid_records_pending", "Records that a sink has not had yet.", ["sink"]
        )
        self.records_delivered = counter(
            "gpuid_records_delivered_total", "Records that a sink has accepted.", ["sink"]
        )
        self.records_dropped = counter(
            "gpuid_records_dropped_total",
            "History entries that a sink will never get, for the history was full.",
            ["sink"],
        )
        self.delivery_failures = counter(
            "gpuid_delivery_failures_total", "Deliveries that a sink did not accept.", ["sink"]
        )
        self.delivery_seconds = histogram(
            "gpuid_delivery_seconds",
            "Time that one delivery took.",
            ["sink"],
            buckets=_DELIVERY_BUCKETS,
        )
        self.duplicate_gpus = gauge(
            "gpuid_duplicate_gpus", "GPUs that several present inventories list for certain."
        )
        self.queue_depth = gauge("gpuid_queue_depth", "Nodes that wait for a worker.")
        self.leader = gauge("gpuid_leader", "1 on the instance that reads and writes, else 0.")
        self.asyncio_tasks = gauge(
            "gpuid_asyncio_tasks", "Unfinished asyncio tasks of the process, Kopf's included."
        )
        ProcessCollector(registry=self.registry)

        self._gpu_info = NodeGauge(
            "gpuid_gpu_info",
            "The GPUs behind a node; joins series that have a UUID to the physical part.",
            ("node", "uuid", "serial", "chassis", "pci", "product"),
        )
        self._last_read = NodeGauge(
            "gpuid_last_read_timestamp_seconds",
            "Unix time of the last good read of a node.",
            ("node",),
        )
        self._check_passed = NodeGauge(
            "gpuid_check_passed",
            "1 when a check passed on a node at its last run, 0 when it failed.",
            ("check", "node"),
        )
        self._as_expected = NodeGauge(
            "gpuid_node_as_expected",
            "1 when a node has what its policy expects, 0 when it does not.",
            ("node",),
        )
        self._gpu_quarantined = NodeGauge(
            "gpuid_gpu_quarantined",
            "1 for each present GPU in quarantine and each quarantine that lists it.",
            ("node", "uuid", "serial", "quarantine"),
        )
        self._condition = NodeGauge(
            "gpuid_inventory_condition",
            "A condition of a node's inventory: 1 True, 0 False, -1 Unknown.",
            ("node", "condition"),
        )
        self._gpu_health = NodeGauge(
            "gpuid_gpu_health",
            "Errors, pending and failed repairs of a GPU, by kind; no series where it is 0.",
            ("node", "uuid", "serial", "kind"),
        )
        self._export_success = PodCounter(
            "gpuid_export_success", "Exports of a node's GPUs to the sink of the environment."
        )
        self._export_failure = PodCounter(
            "gpuid_export_failure",
            "Failed reads and exports of a node with the sink of the environment.",
        )
        self._node_gauges = (
            self._gpu_info,
            self._last_read,
            self._check_passed,
            self._as_expected,
            self._gpu_quarantined,
            self._condition,
            self._gpu_health,
        )

    def set_gpus(self, node: str, gpus: Iterable[GPU]) -> None:
        """Replace what is known of the node's GPUs."""
        self._gpu_info.set(node, [((node, *gpu), 1.0) for gpu in gpus])

    def set_last_read(self, node: str, timestamp: float) -> None:
        """Note a good read of the node at `timestamp`, in Unix seconds."""
        self._last_read.set(node, [((node,), float(timestamp))])

    def set_checks(self, node: str, passed: Mapping[str, bool]) -> None:
        """Replace what is known of the node's checks: by name, whether the last run passed."""
        series = [((check, node), float(result)) for check, result in passed.items()]
        self._check_passed.set(node, series)

    def set_as_expected(self, node: str, met: bool | None) -> None:
        """Note whether the node has what its policy expects; None where nothing is expected or
        nothing is known."""
        if met is None:
            self._as_expected.forget(node)
        else:
            self._as_expected.set(node, [((node,), float(met))])

    def set_quarantined(self, node: str, marks: Sequence[tuple[str, str, str]]) -> None:
        """Replace what is known of the node's GPUs in quarantine, as (uuid, serial, quarantine)."""
        if marks:
            self._gpu_quarantined.set(node, [((node, *mark), 1.0) for mark in marks])
        else:
            self._gpu_quarantined.forget(node)

    def set_conditions(self, node: str, conditions: Mapping[str, float]) -> None:
        """Replace what the conditions of the node's inventory say: 1, 0 or -1, by type."""
        series = [((node, kind), value) for kind, value in conditions.items()]
        self._condition.set(node, series)

    def set_health(self, node: str, health: Sequence[tuple[str, str, str, int]]) -> None:
        """Replace what is known of the health of the node's GPUs, as (uuid, serial, kind, value).

        A fleet of 40,000 GPUs would have 160,000 series of zeros, so 0 has none.
        """
        series = [((node, *labels), float(value)) for *labels, value in health if value]
        if series:
            self._gpu_health.set(node, series)
        else:
            self._gpu_health.forget(node)

    def forget_node(self, node: str) -> None:
        """Drop every series of a node that is gone."""
        for metric in (*self._node_gauges, self._export_success, self._export_failure):
            metric.forget(node)

    def export_succeeded(self, node: str, pod: str) -> None:
        """Count an export of the node's GPUs, which were read in the pod, as gpuid does."""
        self._export_success.add(node, pod, 1)
        self._export_failure.add(node, pod, 0)

    def export_failed(self, node: str, pod: str) -> None:
        """Count a failed read or export of the node, as gpuid does."""
        self._export_success.add(node, pod, 0)
        self._export_failure.add(node, pod, 1)

    def add_sink(self, sink: str) -> None:
        """Begin the counters of a sink at 0: `increase` does not see a counter's first value."""
        for counter in (self.records_delivered, self.records_dropped, self.delivery_failures):
            counter.labels(sink)

    def forget_sink(self, sink: str) -> None:
        """Drop every series of a sink that is configured nowhere any more."""
        for metric in (
            self.records_pending,
            self.records_delivered,
            self.records_dropped,
            self.delivery_failures,
            self.delivery_seconds,
        ):
            metric.remove_by_labels({"sink": sink})

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body of a scrape, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        body = encode(self.registry)
        # Gauges read the same in all formats; only OpenMetrics has an end mark.
        end = _OPENMETRICS_END if body.endswith(_OPENMETRICS_END) else b""
        counters = (self._export_success, self._export_failure)
        families = [
            *(family.render() for family in self._node_gauges),
            *(counter.render(openmetrics=bool(end)) for counter in counters),
        ]
        return content_type, b"".join((body.removesuffix(end), *families, end))


def _escape(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value
