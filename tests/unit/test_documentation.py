"""The documentation says what the code does: variables, reasons, metrics, and links that lead
somewhere."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from gpuid_operator.api.inventory import ConditionType, HistoryType, InventoryStatus
from gpuid_operator.api.values import format_duration
from gpuid_operator.operator.settings import ExporterType, Settings
from gpuid_operator.operator.variables import SettingsError
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.sinks import base
from gpuid_operator.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
GPUID = set(
    re.findall(
        r"\w+",
        """
    EXPORTER_TYPE CLUSTER_NAME NAMESPACE LABEL_SELECTOR CONTAINER WORKERS TIMEOUT RESYNC QPS
    BURST KUBECONFIG LOG_LEVEL SERVER_PORT LEADER_ELECTION LEASE_NAMESPACE LEASE_NAME
    LEASE_DURATION LEASE_RENEW_DEADLINE LEASE_RETRY_PERIOD POD_NAME POD_NAMESPACE
    HTTP_ENDPOINT HTTP_TIMEOUT HTTP_AUTH_TOKEN POSTGRES_HOST POSTGRES_PORT POSTGRES_DB
    POSTGRES_USER POSTGRES_PASSWORD POSTGRES_SSLMODE POSTGRES_TABLE POSTGRES_AUTO_MIGRATE
    S3_BUCKET S3_PREFIX S3_REGION S3_PARTITION_PATTERN
        """,
    )
)
"""What https://github.com/mchmarny/gpuid reads, at 4dd9fcb."""
PACKAGE = ROOT / "gpuid_operator"
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
CONDITIONS = (ROOT / "docs" / "runbooks" / "conditions.md").read_text()
INVENTORY = (ROOT / "docs" / "inventory.md").read_text() + CONDITIONS
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/*.md")]

BAD = ("99999h", "a\x01", "a b", "%Q", "x" * 20_000)
"""Every variable refuses one of them; durations the first, so that they name their bounds."""
REQUIRED = {
    ExporterType.HTTP: {"HTTP_ENDPOINT": "https://host/path"},
    ExporterType.POSTGRES: {
        "POSTGRES_HOST": "host",
        "POSTGRES_DB": "fleet",
        "POSTGRES_USER": "user",
        "POSTGRES_PASSWORD": "password",
    },
    ExporterType.S3: {"S3_BUCKET": "bucket"},
}


def rows() -> dict[str, list[str]]:
    """The default, the allowed values and the meaning of each variable in a table."""
    found = re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", CONFIGURATION, re.MULTILINE)
    assert len(dict(found)) == len(found), "a variable is explained twice"
    return {variable: rest.split(" | ") for variable, rest in found}


def allowed(variable: str) -> str:
    prefixes = {"HTTP": ExporterType.HTTP, "POSTGRES": ExporterType.POSTGRES}
    prefixes |= {"S3": ExporterType.S3, "AWS": ExporterType.S3}
    exporter = prefixes.get(variable.partition("_")[0])
    environment = {"EXPORTER_TYPE": exporter.value, **REQUIRED[exporter]} if exporter else {}
    for value in BAD:
        try:
            Settings.load(environment | {variable: value})
        except SettingsError as error:
            if error.variable == variable:
                return error.allowed.partition("; ")[0]
    raise AssertionError(f"{variable} takes anything")


def test_every_variable_is_explained_and_none_besides() -> None:
    assert set(rows()) == {field.upper() for field in Settings.model_fields}


@pytest.mark.parametrize("field", Settings.model_fields)
def test_default_and_allowed_values_are_the_code_s(field: str) -> None:
    default, may, meaning = rows()[field.upper()]
    value = Settings.model_fields[field].default
    if isinstance(value, timedelta):
        value = format_duration(value)
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    fixed = value not in (None, "") and not Settings.model_fields[field].default_factory
    assert default == (f"`{value}`" if fixed else "–")
    assert may == allowed(field.upper())
    assert meaning


def test_the_migration_names_every_variable_of_gpuid() -> None:
    page = (ROOT / "docs" / "migrating-from-gpuid.md").read_text()
    section = page.partition("\n## Variables\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named >= GPUID
    assert named - {"KUBECONFIG"} <= {field.upper() for field in Settings.model_fields}


def explained(word: str) -> bool:
    return f"`{word}`" in INVENTORY


def test_every_reason_of_a_condition_has_its_line() -> None:
    reasons = {reason.value for reason in FailureReason} | {"Failed"}
    reasons |= {
        kind.reason
        for kind in vars(base).values()
        if isinstance(kind, type) and issubclass(kind, base.SinkError)
    }
    for source in (PACKAGE / "plan").glob("*.py"):
        text = source.read_text()
        reasons |= set(re.findall(r'ConditionUpdate\(\s*[\w.]+,\s*"(\w+)"', text))
        reasons |= set(re.findall(r'ConditionStatus\.\w+,\s+"(\w+)"', text))
        reasons |= set(re.findall(r'failures\["(\w+)"\]', text))
    assert {reason for reason in reasons if not explained(reason)} == set()
    assert {"ReadOK", "Overflow", "NoSinks", "GPUUnhealthy", "TooFewGPUs"} <= reasons


def test_every_type_condition_and_field_is_named() -> None:
    assert [kind for kind in HistoryType if not explained(kind)] == []
    assert [kind for kind in ConditionType if f"## {kind.value}:" not in CONDITIONS] == []
    fields = {field.alias or name for name, field in InventoryStatus.model_fields.items()}
    named = {*re.findall(r"`(\w+)`", INVENTORY), "observedGeneration", "conditions"}
    assert fields - named == set()


def test_every_metric_is_named() -> None:
    text, _ = Metrics().render("")[1].decode(), None
    names = set(re.findall(r"^# HELP (gpuid_\w+)", text, re.MULTILINE))
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert {name for name in names if name not in page} == set()
    assert "gpuid_gpu_info" in names


def test_every_package_has_its_row_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)/`", row)}
    packages = {init.parent.name for init in PACKAGE.glob("*/__init__.py")}
    packages |= {init.parent.name for init in PACKAGE.glob("engine/*/__init__.py")}
    assert packages == named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings]
            assert anchor in slugs, f"{page.name} links to {target}"
