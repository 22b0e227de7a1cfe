"""Generate the Grafana dashboards in deployment/monitoring/dashboards: `make chart`.

The panels are data, below; Grafana's typed builder turns them into JSON. Queries about the fleet
aggregate over `instance` and `pod`, so that a change of the leader does not show a series twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    GridPos,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DIRECTORY: Final = Path(__file__).parent.parent / "deployment" / "monitoring" / "dashboards"
DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG: Final = "gpuid"
_WIDTH: Final = 24

# Each state has a word beside its colour.
_STATES: Final = {
    "1": ("True", "green"),
    "0": ("False", "red"),
    "-1": ("Unknown", "orange"),
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: what it shows, and from which queries (expression and legend)."""

    title: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    """timeseries, stat, table or states."""
    description: str = ""
    unit: str = "short"
    width: int = 12
    height: int = 8
    bad_above: float | None = None
    """The value above which a stat is red."""
    columns: dict[str, str] | None = None
    """Label and heading of the columns of a table, in their order."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the top of the dashboard, from the values of a label."""

    name: str
    label: str
    query: str


@dataclass(frozen=True, kw_only=True)
class Board:
    name: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = ()
    start: str = "now-6h"


def _figure(
    title: str, query: str, *, width: int, bad: bool = False, description: str = ""
) -> Panel:
    """One number; `bad` is whether any but 0 is red."""
    return Panel(
        title=title,
        kind="stat",
        width=width,
        height=4,
        bad_above=0 if bad else None,
        description=description,
        queries=[(query, "")],
    )


FLEET: Final = Board(
    name="fleet",
    title="GPU fleet",
    description="All nodes of the cluster: what is there, what is wrong, what has changed.",
    start="now-24h",
    panels=[
        _figure("Nodes", "count(max by (node) (gpuid_last_read_timestamp_seconds))", width=4),
        _figure(
            "GPUs",
            "count(gpuid:gpu_info:latest)",
            width=4,
            description="Different UUIDs: a GPU on two nodes counts once.",
        ),
        _figure(
            "Nodes that cannot be read",
            'count(max by (node) (gpuid_inventory_condition{condition="Ready"}) == 0) or vector(0)',
            width=4,
            bad=True,
        ),
        _figure(
            "Nodes with an unhealthy GPU",
            'count(max by (node) (gpuid_inventory_condition{condition="Healthy"}) == 0)'
            " or vector(0)",
            width=4,
            bad=True,
        ),
        _figure(
            "GPUs in quarantine",
            "count(count by (uuid) (gpuid_gpu_quarantined)) or vector(0)",
            width=4,
            bad=True,
        ),
        _figure("GPUs on several nodes", "max(gpuid_duplicate_gpus)", width=4, bad=True),
        Panel(
            title="GPUs by product",
            description="The number of GPUs of each product.",
            queries=[("count by (product) (gpuid:gpu_info:latest)", "{{product}}")],
        ),
        Panel(
            title="Changes",
            description="History entries per hour, by type.",
            queries=[
                ("sum by (type) (increase(gpuid_gpu_changes_total[1h])) > 0", "{{type}}"),
            ],
        ),
        Panel(
            title="Conditions that are not True",
            kind="table",
            width=24,
            description="What kubectl describe gpuinventory explains for each node. Unknown is -1.",
            queries=[
                (
                    'max by (node, condition) (gpuid_inventory_condition{condition!="Quarantined"})'
                    " < 1 or max by (node, condition) "
                    '(gpuid_inventory_condition{condition="Quarantined"}) == 1',
                    "",
                )
            ],
            columns={"node": "Node", "condition": "Condition", "Value": "Status"},
        ),
        Panel(
            title="Errors and repairs of GPUs",
            kind="table",
            description="Uncorrectable ECC errors, pending and failed remaps and retirements.",
            queries=[("max by (node, uuid, serial, kind) (gpuid_gpu_health)", "")],
            columns={
                "node": "Node",
                "serial": "Serial",
                "uuid": "UUID",
                "kind": "Kind",
                "Value": "Value",
            },
        ),
        Panel(
            title="Parts in quarantine",
            kind="table",
            queries=[("max by (node, uuid, serial, quarantine) (gpuid_gpu_quarantined)", "")],
            columns={
                "node": "Node",
                "serial": "Serial",
                "uuid": "UUID",
                "quarantine": "Quarantine",
            },
        ),
    ],
)

NODE: Final = Board(
    name="node",
    title="GPU node",
    description="One node: its GPUs, its conditions and its checks over time.",
    start="now-7d",
    variables=[
        Variable(
            name="node",
            label="Node",
            query="label_values(gpuid_last_read_timestamp_seconds, node)",
        )
    ],
    panels=[
        Panel(
            title="Last read",
            kind="stat",
            width=6,
            height=4,
            unit="dateTimeFromNow",
            queries=[('1000 * max(gpuid_last_read_timestamp_seconds{node="$node"})', "")],
        ),
        _figure("GPUs", 'count(count by (uuid) (gpuid_gpu_info{node="$node"}))', width=6),
        _figure(
            "GPUs in quarantine",
            'count(count by (uuid) (gpuid_gpu_quarantined{node="$node"})) or vector(0)',
            width=6,
            bad=True,
        ),
        _figure(
            "Checks that fail",
            'count(max by (check) (gpuid_check_passed{node="$node"}) == 0) or vector(0)',
            width=6,
            bad=True,
        ),
        Panel(
            title="Conditions",
            kind="states",
            width=24,
            queries=[
                (
                    'max by (condition) (gpuid_inventory_condition{node="$node"})',
                    "{{condition}}",
                )
            ],
        ),
        Panel(
            title="Which GPUs are here",
            kind="table",
            width=24,
            queries=[
                ('max by (uuid, serial, chassis, pci, product) (gpuid_gpu_info{node="$node"})', "")
            ],
            columns={
                "pci": "PCI address",
                "serial": "Serial",
                "uuid": "UUID",
                "chassis": "Chassis",
                "product": "Product",
            },
        ),
        Panel(
            title="Which GPUs were here",
            kind="states",
            width=24,
            description="By serial and UUID. A gap is a time in which the GPU was not here.",
            queries=[
                (
                    'max by (serial, uuid) (gpuid_gpu_info{node="$node"})',
                    "{{serial}} {{uuid}}",
                )
            ],
        ),
        Panel(
            title="Checks",
            kind="states",
            queries=[('max by (check) (gpuid_check_passed{node="$node"})', "{{check}}")],
        ),
        Panel(
            title="Errors and repairs of GPUs",
            queries=[
                (
                    'max by (serial, uuid, kind) (gpuid_gpu_health{node="$node"})',
                    "{{kind}} {{serial}} {{uuid}}",
                )
            ],
        ),
    ],
)

GPU: Final = Board(
    name="gpu",
    title="GPU over its life",
    description="One physical GPU, by the serial of its board, on whichever node it is.",
    start="now-30d",
    variables=[
        Variable(name="serial", label="Serial", query="label_values(gpuid_gpu_info, serial)")
    ],
    panels=[
        Panel(
            title="Where the GPU is",
            kind="table",
            width=24,
            height=6,
            description="Two GPUs of one GB200 or GB300 board share a serial.",
            queries=[('gpuid:gpu_info:latest{serial="$serial"}', "")],
            columns={
                "node": "Node",
                "uuid": "UUID",
                "chassis": "Chassis",
                "product": "Product",
            },
        ),
        Panel(
            title="Nodes over time",
            kind="states",
            width=24,
            description="Metrics reach back as far as Prometheus does. For all of its life: "
            "kubectl gpuid history SERIAL, or the view gpu_sightings in PostgreSQL.",
            queries=[
                ('max by (node, uuid) (gpuid_gpu_info{serial="$serial"})', "{{node}} {{uuid}}")
            ],
        ),
        Panel(
            title="Last Xid",
            description="DCGM's last Xid of the GPU; 0 for none.",
            queries=[
                (
                    'max by (UUID) (gpuid:DCGM_FI_DEV_XID_ERRORS:part{serial="$serial"})',
                    "{{UUID}}",
                )
            ],
        ),
        Panel(
            title="ECC errors",
            description="DCGM's counts of single and double bit errors since the driver's load.",
            queries=[
                (
                    'max by (UUID) (gpuid:DCGM_FI_DEV_ECC_SBE_VOL_TOTAL:part{serial="$serial"})',
                    "single {{UUID}}",
                ),
                (
                    'max by (UUID) (gpuid:DCGM_FI_DEV_ECC_DBE_VOL_TOTAL:part{serial="$serial"})',
                    "double {{UUID}}",
                ),
            ],
        ),
        Panel(
            title="Remapped rows",
            queries=[
                (
                    "max by (UUID) "
                    '(gpuid:DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS:part{serial="$serial"})',
                    "correctable {{UUID}}",
                ),
                (
                    "max by (UUID) "
                    '(gpuid:DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS:part{serial="$serial"})',
                    "uncorrectable {{UUID}}",
                ),
            ],
        ),
        Panel(
            title="Errors and repairs",
            description="As nvidia-smi reported them at the last read.",
            queries=[
                (
                    'max by (uuid, kind) (gpuid_gpu_health{serial="$serial"})',
                    "{{kind}} {{uuid}}",
                )
            ],
        ),
    ],
)

SINKS: Final = Board(
    name="sinks",
    title="gpuid sinks",
    description="Whether every sink receives every record.",
    panels=[
        Panel(
            title="Pending records",
            description="Records that a sink has not received yet. Grows while it is unavailable.",
            queries=[("max by (sink) (gpuid_records_pending)", "{{sink}}")],
        ),
        Panel(
            title="Delivered records",
            unit="cps",
            queries=[
                (
                    "sum by (sink) (rate(gpuid_records_delivered_total[$__rate_interval]))",
                    "{{sink}}",
                )
            ],
        ),
        Panel(
            title="Failed deliveries",
            unit="cps",
            queries=[
                (
                    "sum by (sink) (rate(gpuid_delivery_failures_total[$__rate_interval]))",
                    "{{sink}}",
                )
            ],
        ),
        Panel(
            title="Time of a delivery, 90th percentile",
            unit="s",
            queries=[
                (
                    "histogram_quantile(0.9, sum by (sink, le) "
                    "(rate(gpuid_delivery_seconds_bucket[$__rate_interval])))",
                    "{{sink}}",
                )
            ],
        ),
        Panel(
            title="Dropped records",
            description="Records that a sink will never receive, in the chosen time.",
            kind="table",
            queries=[("sum by (sink) (increase(gpuid_records_dropped_total[$__range]))", "")],
            columns={"sink": "Sink", "Value": "Records"},
        ),
        Panel(
            title="Nodes whose records wait",
            kind="table",
            queries=[('max by (node) (gpuid_inventory_condition{condition="Delivered"}) == 0', "")],
            columns={"node": "Node"},
        ),
    ],
)

OPERATOR: Final = Board(
    name="operator",
    title="gpuid-operator",
    description="The process itself: leadership, reads, and what it costs.",
    panels=[
        Panel(
            title="Leader",
            kind="states",
            height=6,
            queries=[("max by (instance) (gpuid_leader)", "{{instance}}")],
        ),
        Panel(
            title="Nodes that wait for a worker",
            height=6,
            queries=[("max(gpuid_queue_depth)", "nodes")],
        ),
        Panel(
            title="Reads by result",
            unit="cps",
            queries=[("sum by (result) (rate(gpuid_reads_total[$__rate_interval]))", "{{result}}")],
        ),
        Panel(
            title="Time of a read",
            unit="s",
            queries=[
                (
                    f"histogram_quantile({quantile}, sum by (le) "
                    "(rate(gpuid_read_seconds_bucket[$__rate_interval])))",
                    words,
                )
                for quantile, words in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
            ],
        ),
        Panel(
            title="CPU",
            description="Cores in use.",
            queries=[
                (
                    "rate(process_cpu_seconds_total[$__rate_interval])"
                    " * on (instance, job) group_left () (gpuid_leader * 0 + 1)",
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            title="Memory",
            unit="bytes",
            queries=[
                (
                    "process_resident_memory_bytes"
                    " * on (instance, job) group_left () (gpuid_leader * 0 + 1)",
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            title="asyncio tasks",
            description="At the same load they stay flat; otherwise something leaks.",
            queries=[("max by (instance) (gpuid_asyncio_tasks)", "{{instance}}")],
        ),
        Panel(
            title="Open files",
            queries=[
                (
                    "process_open_fds * on (instance, job) group_left () (gpuid_leader * 0 + 1)",
                    "{{instance}}",
                )
            ],
        ),
    ],
)

BOARDS: Final = (FLEET, NODE, GPU, SINKS, OPERATOR)


def _mappings() -> list[Any]:
    options = {
        value: ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(_STATES.items())
    }
    return [ValueMap(options=options)]


def _stat(panel: Panel) -> Any:
    steps = [Threshold(value=None, color="text" if panel.bad_above is None else "green")]
    if panel.bad_above is not None:
        steps.append(Threshold(value=panel.bad_above + 1, color="red"))
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return stat.Panel().unit(panel.unit).graph_mode(BigValueGraphMode.NONE).thresholds(thresholds)


def _table(panel: Panel) -> Any:
    columns = panel.columns or {}
    organize = {
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": columns,
    }
    return table.Panel().with_transformation(
        DataTransformerConfig(id_val="organize", options=organize)
    )


_KINDS: Final[dict[str, Callable[[Panel], Any]]] = {
    "timeseries": lambda panel: timeseries.Panel().unit(panel.unit).min(0),
    "states": lambda _panel: statetimeline.Panel().mappings(_mappings()).merge_values(True),
    "stat": _stat,
    "table": _table,
}


def _panel(panel: Panel, *, x: int, y: int) -> Any:
    built = (
        _KINDS[panel.kind](panel)
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .grid_pos(GridPos(h=panel.height, w=panel.width, x=x, y=y))
    )
    for number, (expr, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).ref_id(chr(ord("A") + number))
        if panel.kind in ("stat", "table"):
            query = query.instant()
        if panel.kind == "table":
            query = query.format(PromQueryFormat.TABLE)
        built = built.with_target(query.legend_format(legend))
    return built


def _variable(variable: Variable) -> Any:
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(DATASOURCE)
        .query(variable.query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def build(board: Board) -> str:
    """The dashboard as JSON."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(f"{TAG}-{board.name}")
        .description(board.description)
        .tags([TAG])
        .editable()
        .time(board.start, "now")
        .refresh("1m")
        .link(
            dashboard.DashboardLink("gpuid")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    x = y = row = 0
    for panel in board.panels:
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        built = built.with_panel(_panel(panel, x=x, y=y))
        x, row = x + panel.width, max(row, panel.height)
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def generated() -> dict[Path, str]:
    """The content of every dashboard, by path."""
    return {DIRECTORY / f"{board.name}.json": build(board) for board in BOARDS}
