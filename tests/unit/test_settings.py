"""The environment: every variable good and bad, and what is said of a bad one."""

from __future__ import annotations

import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gpuid_operator.api.sinks import SSLMode
from gpuid_operator.operator.selectors import check_selector
from gpuid_operator.operator.settings import ExporterType, Settings, own_namespace
from gpuid_operator.operator.variables import SECRETS, SettingsError
from gpuid_operator.plan.presets import expand
from gpuid_operator.plan.quarantine_taints import NodeLimit
from gpuid_operator.plan.target import Target

HTTP = {"EXPORTER_TYPE": "http", "HTTP_ENDPOINT": "https://api.example.com/gpu-data"}
POSTGRES = {
    "EXPORTER_TYPE": "postgres",
    "POSTGRES_HOST": "db.example.com",
    "POSTGRES_DB": "gpuid",
    "POSTGRES_USER": "gpuid",
    "POSTGRES_PASSWORD": "s3cret-password",
}
S3 = {"EXPORTER_TYPE": "s3", "S3_BUCKET": "gpuids"}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s3cret/key+of=aws"}

DEFAULTS: dict[str, Any] = {
    "namespace": "gpu-operator",
    "label_selector": "app=nvidia-device-plugin-daemonset",
    "container": "nvidia-device-plugin",
    "targets": (
        Target(
            namespace="gpu-operator",
            selector="app=nvidia-device-plugin-daemonset",
            container="nvidia-device-plugin",
            command=("nvidia-smi", "-q", "-x"),
        ),
    ),
    "cluster_name": None,
    "workers": 64,
    "timeout": timedelta(seconds=30),
    "resync": timedelta(hours=24),
    "sighting_interval": timedelta(hours=24),
    "qps": 200.0,
    "burst": 400,
    "log_level": "info",
    "log_format": "json",
    "server_port": 8080,
    "pod_name": socket.gethostname(),
    "pod_namespace": None,
    "leader_election": False,
    "lease_namespace": None,
    "lease_name": "gpuid-operator",
    "lease_duration": timedelta(seconds=15),
    "lease_renew_deadline": timedelta(seconds=10),
    "lease_retry_period": timedelta(seconds=2),
    "suspend": False,
    "policy_checks": False,
    "restarts_per_hour": 20,
    "quarantine_taints": False,
    "quarantine_max_nodes": NodeLimit(10, percent=True),
    "command": None,
    "check_name": "command",
    "force_restart": False,
    "exporter_type": ExporterType.STDOUT,
    "http_endpoint": None,
    "http_timeout": timedelta(seconds=30),
    "http_auth_token": None,
    "postgres_host": None,
    "postgres_port": 5432,
    "postgres_db": None,
    "postgres_user": None,
    "postgres_password": None,
    "postgres_sslmode": SSLMode.REQUIRE,
    "postgres_table": "gpu",
    "postgres_auto_migrate": False,
    "s3_bucket": None,
    "s3_prefix": "",
    "s3_region": "us-east-1",
    "s3_partition_pattern": "year=%Y/month=%m/day=%d/hour=%H",
    "aws_access_key_id": None,
    "aws_secret_access_key": None,
    "aws_session_token": None,
    "aws_endpoint_url": None,
    "aws_endpoint_url_s3": None,
}

GOOD: list[tuple[dict[str, str], str, Any]] = [
    ({}, "NAMESPACE", "kube-system"),
    ({}, "LABEL_SELECTOR", "name in (a, b),!old"),
    ({}, "CONTAINER", "nvidia-driver-ctr"),
    ({}, "CLUSTER_NAME", "Prod / EU"),
    ({}, "WORKERS", "1"),
    ({}, "WORKERS", "500"),
    ({}, "TIMEOUT", "1m30s"),
    ({}, "TIMEOUT", "500ms"),
    ({}, "RESYNC", "0"),
    ({}, "RESYNC", "0s"),
    ({}, "RESYNC", "8760h"),
    ({}, "SIGHTING_INTERVAL", "168h"),
    ({}, "QPS", "0.5"),
    ({}, "QPS", "500"),
    ({}, "BURST", "1"),
    ({}, "LOG_LEVEL", "error"),
    ({}, "LOG_FORMAT", "text"),
    ({}, "SERVER_PORT", "1"),
    ({}, "SERVER_PORT", "65535"),
    ({}, "POD_NAME", "gpuid-7d9f8b6c5-x2x4z"),
    ({}, "POD_NAMESPACE", "gpuid"),
    ({}, "LEADER_ELECTION", "true"),
    ({}, "LEASE_NAMESPACE", "gpuid"),
    ({}, "LEASE_NAME", "gpuid-leader.example"),
    ({}, "LEASE_DURATION", "1m"),
    ({}, "LEASE_RENEW_DEADLINE", "14s"),
    ({}, "LEASE_RETRY_PERIOD", "9s"),
    ({}, "SUSPEND", "T"),
    ({}, "POLICY_CHECKS", "1"),
    ({}, "RESTARTS_PER_HOUR", "0"),
    ({}, "QUARANTINE_TAINTS", "true"),
    ({}, "QUARANTINE_MAX_NODES", "100%"),
    ({}, "QUARANTINE_MAX_NODES", "1"),
    ({}, "COMMAND", 'VALUE=$(cat /proc/x)\n[ "$VALUE" != "0" ]\n'),
    ({}, "CHECK_NAME", "grdma-override"),
    ({}, "FORCE_RESTART", "TRUE"),
    ({}, "EXPORTER_TYPE", "stdout"),
    (HTTP, "HTTP_ENDPOINT", "http://exporter.gpuid.svc.cluster.local/data?x=1"),
    (HTTP, "HTTP_TIMEOUT", "5s"),
    (HTTP, "HTTP_AUTH_TOKEN", "a.b-c d=="),
    (POSTGRES, "POSTGRES_HOST", "2001:db8::1"),
    (POSTGRES, "POSTGRES_HOST", "/var/run/postgresql"),
    (POSTGRES, "POSTGRES_PORT", "6432"),
    (POSTGRES, "POSTGRES_DB", "fleet"),
    (POSTGRES, "POSTGRES_USER", "writer"),
    (POSTGRES, "POSTGRES_PASSWORD", " with space "),
    (POSTGRES, "POSTGRES_SSLMODE", "verify-full"),
    (POSTGRES, "POSTGRES_TABLE", "fleet.serials"),
    (POSTGRES, "POSTGRES_AUTO_MIGRATE", "true"),
    (S3, "S3_BUCKET", "my.bucket"),
    (S3, "S3_PREFIX", "serial-numbers"),
    (S3, "S3_REGION", "eu-central-1"),
    (S3, "S3_PARTITION_PATTERN", "%Y/%m/%d"),
    (S3 | KEYS, "AWS_ACCESS_KEY_ID", "AKIAOTHER"),
    (S3 | KEYS, "AWS_SECRET_ACCESS_KEY", "other"),
    (S3 | KEYS, "AWS_SESSION_TOKEN", "token"),
    (S3, "AWS_ENDPOINT_URL", "http://127.0.0.1:7070"),
    (S3, "AWS_ENDPOINT_URL_S3", "https://minio.example.com/"),
]

READ = {
    "1m30s": timedelta(seconds=90),
    "500ms": timedelta(milliseconds=500),
    "0": timedelta(0),
    "0s": timedelta(0),
    "8760h": timedelta(hours=8760),
    "168h": timedelta(hours=168),
    "1m": timedelta(minutes=1),
    "14s": timedelta(seconds=14),
    "9s": timedelta(seconds=9),
    "5s": timedelta(seconds=5),
}

BAD: list[tuple[dict[str, str], str, str]] = [
    ({}, "NAMESPACE", "GPU_Operator"),
    ({}, "NAMESPACE", "a" * 64),
    ({}, "NAMESPACE", "two\nlines"),
    ({}, "LABEL_SELECTOR", "app in (a"),
    ({}, "LABEL_SELECTOR", "app=a app=b"),
    ({}, "CONTAINER", "-x"),
    ({}, "TARGETS", "{"),
    ({}, "TARGETS", "[" * 5000),
    ({}, "TARGETS", "- 2026-99-99"),
    ({}, "TARGETS", "[]"),
    ({}, "TARGETS", "text"),
    ({}, "TARGETS", "- text"),
    ({}, "TARGETS", "- {namespace: a}"),
    ({}, "TARGETS", "- {namespace: a, selector: ''}"),
    ({}, "TARGETS", "- {namespace: a, selector: 'x in'}"),
    ({}, "TARGETS", "- {namespace: A, selector: a}"),
    ({}, "TARGETS", "- {namespace: a, selector: a, container: A}"),
    ({}, "TARGETS", "- {namespace: a, selector: a, containr: a}"),
    ({}, "TARGETS", "- {namespace: a, selector: a, command: nvidia-smi -q -x}"),
    ({}, "TARGETS", "- {namespace: a, selector: a, command: []}"),
    ({}, "TARGETS", "- {namespace: a, selector: a, command: [nvidia-smi, 1]}"),
    ({}, "TARGETS", "\n".join(["- {namespace: a, selector: a}"] * 17)),
    ({}, "CLUSTER_NAME", "a" * 256),
    ({}, "CLUSTER_NAME", "a\tb"),
    ({}, "WORKERS", "0"),
    ({}, "WORKERS", "501"),
    ({}, "WORKERS", "many"),
    ({}, "WORKERS", "1_0"),
    ({}, "WORKERS", "16.0"),
    ({}, "TIMEOUT", "0s"),
    ({}, "TIMEOUT", "-1s"),
    ({}, "TIMEOUT", "30"),
    ({}, "TIMEOUT", "2h"),
    ({}, "RESYNC", "1d"),
    ({}, "RESYNC", "8761h"),
    ({}, "SIGHTING_INTERVAL", "8761h"),
    ({}, "QPS", "0"),
    ({}, "QPS", "-5"),
    ({}, "QPS", "NaN"),
    ({}, "QPS", "inf"),
    ({}, "QPS", "1e999"),
    ({}, "BURST", "0"),
    ({}, "BURST", "1.5"),
    ({}, "LOG_LEVEL", "verbose"),
    ({}, "LOG_FORMAT", "xml"),
    ({}, "SERVER_PORT", "0"),
    ({}, "SERVER_PORT", "65536"),
    ({}, "POD_NAME", "a\x00b"),
    ({}, "POD_NAMESPACE", "."),
    ({}, "LEADER_ELECTION", "yes"),
    ({}, "LEASE_NAMESPACE", "a/b"),
    ({}, "LEASE_NAME", "a..b"),
    ({}, "LEASE_NAME", ".".join(["a" * 63] * 4)),
    ({}, "LEASE_DURATION", "999ms"),
    ({}, "LEASE_RENEW_DEADLINE", "15s"),
    ({}, "LEASE_RETRY_PERIOD", "10s"),
    ({}, "LEASE_RETRY_PERIOD", "0s"),
    ({}, "SUSPEND", "on"),
    ({}, "POLICY_CHECKS", "tRUE"),
    ({}, "RESTARTS_PER_HOUR", "-1"),
    ({}, "QUARANTINE_TAINTS", "NoSchedule"),
    ({}, "QUARANTINE_MAX_NODES", "0%"),
    ({}, "QUARANTINE_MAX_NODES", "10 %"),
    ({}, "QUARANTINE_MAX_NODES", "-1"),
    ({}, "COMMAND", "x" * 16_385),
    ({}, "CHECK_NAME", "Grdma"),
    ({}, "FORCE_RESTART", "2"),
    ({}, "EXPORTER_TYPE", "kafka"),
    (HTTP, "HTTP_ENDPOINT", "ftp://host/"),
    (HTTP, "HTTP_ENDPOINT", "api.example.com"),
    (HTTP, "HTTP_TIMEOUT", "30"),
    (POSTGRES, "POSTGRES_HOST", "db host"),
    (POSTGRES, "POSTGRES_HOST", "host=db password=x"),
    (POSTGRES, "POSTGRES_PORT", "0"),
    (POSTGRES, "POSTGRES_DB", "x" * 64),
    (POSTGRES, "POSTGRES_USER", "a\nb"),
    (POSTGRES, "POSTGRES_SSLMODE", "on"),
    (POSTGRES, "POSTGRES_TABLE", "serials; drop table x"),
    (POSTGRES, "POSTGRES_AUTO_MIGRATE", "maybe"),
    (S3, "S3_BUCKET", "a/b"),
    (S3, "S3_PREFIX", "x" * 513),
    (S3, "S3_REGION", "EU"),
    (S3, "S3_PARTITION_PATTERN", "year=%Q"),
    (S3, "AWS_ENDPOINT_URL", "minio:9000"),
    (S3, "AWS_ENDPOINT_URL_S3", "https://minio/path"),
]


def failure(environ: dict[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    return caught.value


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings.load({})
    assert {field: getattr(settings, field) for field in Settings.model_fields} == DEFAULTS


@pytest.mark.parametrize(("others", "variable", "value"), GOOD)
def test_good_values(others: dict[str, str], variable: str, value: str) -> None:
    settings = Settings.load({**others, variable: value})
    found = getattr(settings, variable.lower())
    if isinstance(found, SecretStr):
        assert found.get_secret_value() == value
    elif isinstance(found, bool):
        assert found is True
    elif isinstance(found, timedelta):
        assert found == READ[value]
    else:
        assert str(found) == value or found == float(value)


@pytest.mark.parametrize(("others", "variable", "value"), BAD)
def test_bad_values(others: dict[str, str], variable: str, value: str) -> None:
    error = failure({**others, variable: value})
    sentence = str(error)
    assert error.variable == variable
    assert sentence.startswith(f"{variable}=")
    assert "is invalid: expected " in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    assert error.__cause__ is None


def test_every_variable_has_a_good_and_a_bad_value_here() -> None:
    every = {field.upper() for field in Settings.model_fields}
    without_bad = SECRETS
    assert {variable for _, variable, _ in GOOD} | {"TARGETS"} == every
    assert {variable for _, variable, _ in BAD} | without_bad == every


def test_the_sentence_says_variable_value_and_what_is_allowed() -> None:
    assert str(failure({"WORKERS": "501"})) == (
        'WORKERS="501" is invalid: expected a whole number from 1 to 500'
    )
    assert str(failure({"LOG_LEVEL": "loud\n"})) == (
        'LOG_LEVEL="loud" is invalid: expected debug, info, warn or error'
    )
    assert str(failure({"NAMESPACE": "a\nb"})).startswith('NAMESPACE="a\\nb" is invalid')
    assert str(failure({"LEASE_DURATION": "5s"})) == (
        'LEASE_RENEW_DEADLINE="10s" is invalid:'
        " expected a duration shorter than LEASE_DURATION (5s)"
    )
    assert str(failure({"TARGETS": "- a\n- {b"})).endswith("; invalid YAML in line 2")
    assert "item 2 has the unknown key containr" in str(
        failure(
            {"TARGETS": "- {namespace: a, selector: b}\n- {namespace: a, selector: b, containr: c}"}
        )
    )


@pytest.mark.parametrize(
    ("exporter", "environ", "missing"),
    [
        ("http", {}, "HTTP_ENDPOINT"),
        ("s3", {}, "S3_BUCKET"),
        *(
            ("postgres", {k: v for k, v in POSTGRES.items() if k != name}, name)
            for name in ("POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD")
        ),
    ],
)
def test_what_an_exporter_needs_is_named(
    exporter: str, environ: dict[str, str], missing: str
) -> None:
    error = failure({**environ, "EXPORTER_TYPE": exporter})
    assert str(error) == f"{missing} is not set: EXPORTER_TYPE={exporter} requires it"


@pytest.mark.parametrize("given", list(KEYS))
def test_half_a_pair_of_keys(given: str) -> None:
    [missing] = KEYS.keys() - {given}
    assert str(failure({**S3, given: KEYS[given]})).startswith(f"{missing} is not set: ")


@pytest.mark.parametrize("variable", sorted(SECRETS))
def test_the_value_of_a_secret_is_never_shown(variable: str) -> None:
    others = {"H": HTTP, "P": POSTGRES, "A": S3 | KEYS}[variable[0]]
    error = failure({**others, variable: "s3cret\x00value"})
    assert error.variable == variable
    for text in (str(error), repr(error), repr(error.args)):
        assert "s3cret" not in text
        assert "(not shown)" in text
    good = Settings.load({**others, variable: "s3cret-value"})
    assert "s3cret" not in repr(good)
    assert "s3cret" not in str(good)
    assert "s3cret" not in good.model_dump_json(exclude={"targets"})


@pytest.mark.parametrize(
    ("others", "variable", "value"),
    [
        (HTTP, "HTTP_ENDPOINT", "https://user:hunter2@host/x?token=hunter2"),
        (HTTP, "HTTP_ENDPOINT", "ftp://host/x?token=hunter2"),
        (POSTGRES, "POSTGRES_HOST", "postgres://user:hunter2@host/db"),
        (POSTGRES, "POSTGRES_HOST", "user:hunter2@host"),
        (S3, "AWS_ENDPOINT_URL", "https://user:hunter2@minio"),
    ],
)
def test_user_and_password_of_a_bad_url_are_not_shown(
    others: dict[str, str], variable: str, value: str
) -> None:
    sentence = str(failure({**others, variable: value}))
    assert sentence.startswith(f"{variable}=")
    assert "hunter2" not in sentence


def test_empty_variables_count_as_unset() -> None:
    environ = {field.upper(): "" for field in Settings.model_fields}
    assert Settings.load(environ) == Settings.load({})
    blank = {field.upper(): " \n" for field in Settings.model_fields}
    assert Settings.load(blank) == Settings.load({})


def test_the_variables_of_other_exporters_are_not_looked_at() -> None:
    nonsense = {"POSTGRES_SSLMODE": "?", "S3_REGION": "?", "AWS_SESSION_TOKEN": "\x00"}
    settings = Settings.load({**HTTP, **nonsense, **KEYS})
    assert settings.exporter_type is ExporterType.HTTP
    assert settings.aws_access_key_id is None
    assert failure({**POSTGRES, **nonsense}).variable == "POSTGRES_SSLMODE"


def test_a_port_that_kubernetes_put_there_for_a_service_counts_as_unset() -> None:
    settings = Settings.load(
        {**POSTGRES, "POSTGRES_PORT": "tcp://10.0.0.7:5432", "SERVER_PORT": "tcp://10.0.0.8:80"}
    )
    assert (settings.postgres_port, settings.server_port) == (5432, 8080)


def test_words_in_any_case() -> None:
    settings = Settings.load(
        {"LOG_LEVEL": "WARNING", "LOG_FORMAT": "JSON", "EXPORTER_TYPE": "Stdout"}
    )
    assert (settings.log_level, settings.log_format) == ("warn", "json")


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true_as_go_reads_it(text: str) -> None:
    assert Settings.load({"SUSPEND": text}).suspend is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false_as_go_reads_it(text: str) -> None:
    assert Settings.load({"SUSPEND": text}).suspend is False


def test_targets_in_order_with_their_defaults() -> None:
    settings = Settings.load(
        {
            "NAMESPACE": "not-looked-at",
            "TARGETS": """
            - namespace: gpu-operator
              selector: app=nvidia-device-plugin-daemonset
              container: nvidia-device-plugin
            - {namespace: kube-system, selector: "k8s-app in (gke)", command: [/bin/smi, -q, -x]}
            """,
        }
    )
    assert settings.targets == (
        Target("gpu-operator", "app=nvidia-device-plugin-daemonset", "nvidia-device-plugin"),
        Target("kube-system", "k8s-app in (gke)", None, ("/bin/smi", "-q", "-x")),
    )


def test_presets_are_expanded_in_their_place() -> None:
    settings = Settings.load(
        {
            "TARGETS": """
            - {namespace: mine, selector: a=b}
            - preset: gke
            - {preset: dcgm-exporter, namespace: monitoring}
            - preset: auto
            """
        }
    )
    mine, rest = settings.targets[0], settings.targets[1:]
    assert mine == Target("mine", "a=b")
    moved = expand("dcgm-exporter", namespace="monitoring")
    others = tuple(target for target in expand("auto") if target.preset != "gke")
    assert rest == (*expand("gke"), *moved, *others)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            "{preset: gpu}",
            "unknown preset gpu; the presets are gpu-operator, static-manifest, gke,",
        ),
        ("{preset: gke, selector: a=b}", "item 1 has the unknown key selector"),
        ("{preset: gke, namespace: A}", "namespace of item 1: at most 63"),
        ("{preset: [gke]}", "item 1 needs a string as its preset"),
    ],
)
def test_a_bad_preset_is_named(item: str, said: str) -> None:
    assert said in str(failure({"TARGETS": f"[{item}]"}))


def test_one_target_from_the_three_variables() -> None:
    settings = Settings.load({"NAMESPACE": "a", "LABEL_SELECTOR": "b", "CONTAINER": "c"})
    assert settings.targets == (Target("a", "b", "c"),)


def test_secrets_lose_the_line_break_at_their_end_and_nothing_else() -> None:
    settings = Settings.load({**POSTGRES, "POSTGRES_PASSWORD": " pass word \r\n"})
    assert settings.credentials == {"POSTGRES_USER": "gpuid", "POSTGRES_PASSWORD": " pass word "}
    assert settings.secrets == (" pass word ",)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load({})
    with pytest.raises(ValidationError):
        settings.workers = 3  # type: ignore[misc]


@given(st.dictionaries(st.sampled_from([f.upper() for f in Settings.model_fields]), st.text()))
def test_any_environment_loads_or_says_why_not(environ: dict[str, str]) -> None:
    try:
        Settings.load(environ)
    except SettingsError as error:
        assert "\n" not in str(error)
        assert error.variable in str(error)


@pytest.mark.parametrize(
    ("mounted", "environ", "expected"),
    [
        ("mounted\n", {"POD_NAMESPACE": "pod", "LEASE_NAMESPACE": "lease"}, "mounted"),
        ("", {"POD_NAMESPACE": "pod", "LEASE_NAMESPACE": "lease"}, "pod"),
        (None, {"POD_NAMESPACE": "pod", "LEASE_NAMESPACE": "lease"}, "pod"),
        (None, {"POD_NAMESPACE": "", "LEASE_NAMESPACE": "lease"}, "lease"),
        (None, {}, "default"),
    ],
)
def test_own_namespace(
    tmp_path: Path, mounted: str | None, environ: dict[str, str], expected: str
) -> None:
    if mounted is not None:
        (tmp_path / "namespace").write_text(mounted)
    assert own_namespace(environ, tmp_path) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "!a",
        "a=b",
        "a==b",
        "a!=b",
        "a=",
        "a = b , c",
        "example.com/name=x.y_z-1",
        "a in (b)",
        "a in(b, c,)",
        "a notin (b)",
        "in in (in)",
        "a>5",
        "a < 7",
        f"{'a' * 63}={'b' * 63}",
    ],
)
def test_selectors_that_the_api_server_takes(text: str) -> None:
    assert check_selector(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "a,",
        ",a",
        "a,,b",
        "a b",
        "a=b c",
        "=b",
        "a in",
        "a in ()",
        "a in b",
        "a in (b",
        "a in (b))",
        "!a=b",
        "a=-b",
        "a>b",
        "a>-1",
        "-a",
        "a/b/c",
        "/a",
        "UPPER.prefix/a",
        "a=b;c",
        "a='b'",
        f"a={'b' * 64}",
        f"{'a' * 64}",
        f"{'a' * 254}/b",
    ],
)
def test_selectors_that_it_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="a label selector such as"):
        check_selector(text)


@given(st.text(alphabet="ab=!(), in<>./-1"))
def test_checking_a_selector_always_ends(text: str) -> None:
    try:
        assert check_selector(text)
    except ValueError as error:
        assert re.match("a label selector", str(error))
