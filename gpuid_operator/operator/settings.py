"""The settings of the process: environment variables, read once at its start."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from gpuid_operator.api.sinks import SSLMode
from gpuid_operator.api.values import format_duration
from gpuid_operator.operator import variables as read
from gpuid_operator.operator.selectors import check_selector
from gpuid_operator.operator.targets import targets as parse_targets
from gpuid_operator.operator.variables import SECRETS, SettingsError, reads
from gpuid_operator.plan.quarantine_taints import DEFAULT_MAX_NODES, NodeLimit
from gpuid_operator.plan.target import Target
from gpuid_operator.telemetry.log import Format, Level

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the service account of a pod."""

_MILLISECOND: Final = timedelta(milliseconds=1)
_SECOND: Final = timedelta(seconds=1)
_HOUR: Final = timedelta(hours=1)
_YEAR: Final = timedelta(hours=8760)


class ExporterType(StrEnum):
    """The types of sinks that the environment can configure: those of gpuid. A policy has more."""

    STDOUT = "stdout"
    HTTP = "http"
    POSTGRES = "postgres"
    S3 = "s3"


_INDENTED: Final = frozenset({"COMMAND", "TARGETS"})
"""Variables of several lines, in which leading spaces matter."""
_EXPORTER_PREFIXES: Final = {
    "HTTP_": ExporterType.HTTP,
    "POSTGRES_": ExporterType.POSTGRES,
    "S3_": ExporterType.S3,
    "AWS_": ExporterType.S3,
}
_REQUIRED: Final = {
    ExporterType.HTTP: ("HTTP_ENDPOINT",),
    ExporterType.POSTGRES: ("POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"),
    ExporterType.S3: ("S3_BUCKET",),
}

_Bool = Annotated[bool, reads(read.boolean)]
_Label = Annotated[str, reads(read.dns_label)]
_Credential = Annotated[SecretStr, reads(read.credential)]
_Port = Annotated[int, reads(read.port)]
_Timeout = Annotated[timedelta, reads(read.duration(low=_MILLISECOND, high=_HOUR))]
_LeaseTime = Annotated[timedelta, reads(read.duration(low=_MILLISECOND, high=_HOUR))]
_Interval = Annotated[timedelta, reads(read.duration(low=timedelta(0), high=_YEAR))]
_Endpoint = Annotated[str, reads(read.s3_endpoint)]


def _default_targets(values: dict[str, Any]) -> tuple[Target, ...]:
    return (
        Target(
            namespace=values["namespace"],
            selector=values["label_selector"],
            container=values["container"],
        ),
    )


class Settings(BaseModel):
    """Each field is the variable of the same name in capitals. Names and defaults are gpuid's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespace: _Label = "gpu-operator"
    """Namespace of the target pods."""
    label_selector: Annotated[str, reads(check_selector)] = "app=nvidia-device-plugin-daemonset"
    """Selects the target pods in that namespace."""
    container: _Label = "nvidia-device-plugin"
    """Container of the pod."""
    targets: Annotated[tuple[Target, ...], reads(parse_targets)] = Field(
        default_factory=_default_targets
    )
    """Where to read, in order of preference. Without TARGETS: the three above."""
    cluster_name: Annotated[str, reads(read.words)] | None = None
    """A field of every record; None: the uid of namespace kube-system."""
    workers: Annotated[int, reads(read.whole(1, 500))] = 64
    """Maximum number of concurrent execs."""
    timeout: _Timeout = timedelta(seconds=30)
    """Timeout of one exec."""
    resync: _Interval = timedelta(hours=24)
    """Longest time between two reads of a node; 0: only on events."""
    sighting_interval: _Interval = timedelta(hours=24)
    """Longest time between two sightings of an unchanged node; 0: only of what is new."""
    qps: Annotated[float, reads(read.rate)] = 200.0
    """API requests per second."""
    burst: Annotated[int, reads(read.whole(1, 100_000))] = 400
    """API requests at once after an idle period."""
    log_level: Annotated[
        Level, reads(read.one_of("debug", "info", "warn", "error", warning="warn"))
    ] = "info"
    log_format: Annotated[Format, reads(read.one_of("json", "text"))] = "json"
    server_port: _Port = 8080
    """Port of /healthz, /readyz and /metrics."""
    pod_name: Annotated[str, reads(read.words)] = Field(default_factory=socket.gethostname)
    """Holder of the lease, before its random suffix."""
    pod_namespace: _Label | None = None
    leader_election: _Bool = False
    lease_namespace: _Label | None = None
    """None: the own namespace."""
    lease_name: Annotated[str, reads(read.dns_subdomain)] = "gpuid-operator"
    lease_duration: Annotated[timedelta, reads(read.duration(low=_SECOND, high=_HOUR))] = timedelta(
        seconds=15
    )
    """How long others wait before they take over a lease that is not renewed."""
    lease_renew_deadline: _LeaseTime = timedelta(seconds=10)
    """How long the leader tries to renew before it gives up."""
    lease_retry_period: _LeaseTime = timedelta(seconds=2)
    """Time between two tries."""
    suspend: _Bool = False
    """Stops every exec, regardless of policies. Deliveries continue."""
    policy_checks: _Bool = False
    """Whether policies may run checks."""
    restarts_per_hour: Annotated[int, reads(read.whole(0, 10_000))] = 20
    """Restarts of pods for failed checks, in the whole cluster."""
    quarantine_taints: _Bool = False
    """Whether a GPUQuarantine may taint the nodes that have its parts."""
    quarantine_max_nodes: Annotated[NodeLimit, reads(NodeLimit.parse)] = DEFAULT_MAX_NODES
    """Largest number of nodes with such a taint, or a percentage of the nodes with an inventory."""
    command: Annotated[str, reads(read.script)] | None = None
    """Script of the check runner. None: this instance keeps the inventory."""
    check_name: _Label = "command"
    """Name of the check runner's check."""
    force_restart: _Bool = False
    """Whether the check runner restarts the pods that fail."""

    exporter_type: Annotated[ExporterType, reads(read.one_of(*ExporterType))] = ExporterType.STDOUT
    """Type of the one sink of the built-in policy. Variables of the other types are ignored."""
    http_endpoint: Annotated[str, reads(read.endpoint)] | None = None
    http_timeout: _Timeout = timedelta(seconds=30)
    http_auth_token: _Credential | None = None
    postgres_host: Annotated[str, reads(read.host)] | None = None
    postgres_port: _Port = 5432
    postgres_db: Annotated[str, reads(read.database)] | None = None
    postgres_user: Annotated[str, reads(read.credential)] | None = None
    postgres_password: _Credential | None = None
    postgres_sslmode: Annotated[SSLMode, reads(read.one_of(*SSLMode))] = SSLMode.REQUIRE
    postgres_table: Annotated[str, reads(read.table)] = "gpu"
    postgres_auto_migrate: _Bool = False
    s3_bucket: Annotated[str, reads(read.bucket)] | None = None
    s3_prefix: Annotated[str, reads(read.key_prefix)] = ""
    s3_region: _Label = "us-east-1"
    """gpuid's default, regardless of AWS_REGION: its buckets without S3_REGION are there."""
    s3_partition_pattern: Annotated[str, reads(read.partition)] = "year=%Y/month=%m/day=%d/hour=%H"
    aws_access_key_id: _Credential | None = None
    aws_secret_access_key: _Credential | None = None
    aws_session_token: _Credential | None = None
    aws_endpoint_url: _Endpoint | None = None
    aws_endpoint_url_s3: _Endpoint | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment; an empty variable counts as unset. Raises SettingsError."""
        exporter = environ.get("EXPORTER_TYPE", "").strip().lower() or ExporterType.STDOUT
        values = {}
        for field in cls.model_fields:
            variable = field.upper()
            value = environ.get(variable, "")
            if not value.strip() or _is_of_another_exporter(variable, exporter):
                continue
            if variable.endswith("_PORT") and value.startswith(("tcp://", "udp://")):
                # Set by Kubernetes for a Service named `postgres` or `server`, not by a user.
                continue
            if variable in SECRETS:
                # Secrets made with `echo` end with a line break that is no part of them.
                value = value.rstrip("\r\n")
            elif variable not in _INDENTED:
                value = value.strip()
            values[field] = value
        return cls.model_validate(values)

    @property
    def credentials(self) -> dict[str, str]:
        """The variables that the built-in policy's sink refers to as Secret `environment`."""
        values = {
            variable: getattr(self, variable.lower())
            for variable in sorted({*SECRETS, "POSTGRES_USER"})
        }
        return {
            variable: value.get_secret_value() if isinstance(value, SecretStr) else value
            for variable, value in values.items()
            if value is not None
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no log line, Event or status may show."""
        return tuple(value for name, value in self.credentials.items() if name in SECRETS)

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        _expect_shorter("LEASE_RENEW_DEADLINE", self, "LEASE_DURATION")
        _expect_shorter("LEASE_RETRY_PERIOD", self, "LEASE_RENEW_DEADLINE")
        return self

    @model_validator(mode="after")
    def _check_exporter(self) -> Self:
        for variable in _REQUIRED.get(self.exporter_type, ()):
            if getattr(self, variable.lower()) is None:
                raise SettingsError(
                    variable, None, f"EXPORTER_TYPE={self.exporter_type.value} requires it"
                )
        pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [variable for variable in pair if getattr(self, variable.lower()) is None]
        if len(missing) == 1:
            raise SettingsError(
                missing[0],
                None,
                f"set both {' and '.join(pair)}, or neither to use the cloud's own",
            )
        return self


def own_namespace(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> str:
    """The namespace that the operator runs in, where its lease and its sinks' Secrets are.

    That of the service account, else POD_NAMESPACE, else LEASE_NAMESPACE, else `default`.
    """
    try:
        mounted = (service_account / "namespace").read_text().strip()
    except OSError:
        mounted = ""
    given = (environ.get(name, "").strip() for name in ("POD_NAMESPACE", "LEASE_NAMESPACE"))
    return next(filter(None, (mounted, *given)), "default")


def _is_of_another_exporter(variable: str, exporter: str) -> bool:
    return any(
        variable.startswith(prefix) and kind != exporter
        for prefix, kind in _EXPORTER_PREFIXES.items()
    )


def _expect_shorter(variable: str, settings: Settings, bound: str) -> None:
    value, limit = (getattr(settings, name.lower()) for name in (variable, bound))
    if value >= limit:
        raise SettingsError(
            variable,
            format_duration(value),
            f"a duration shorter than {bound} ({format_duration(limit)})",
        )
