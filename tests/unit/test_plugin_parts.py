"""The parts of the kubectl plugin that need no cluster."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuid_operator.cli import plugin_complete
from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.cli.plugin_kubeconfig import KubeconfigNames
from gpuid_operator.cli.plugin_table import CLUSTER, Column, show

HEAVY = ("kopf", "lxml", "asyncpg", "obstore", "prometheus_client")


def run(*words: str, **environment: str | None) -> Result:
    return CliRunner().invoke(cli, words, prog_name=PROGRAM, env=environment)


def loaded(statement: str, *modules: str) -> list[str]:
    """Which of these modules a statement loads in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def kubeconfig(path: Path, *contexts: str, current: str = "") -> Path:
    entries = "".join(f"\n- name: {name}\n  context: {{cluster: c}}" for name in contexts)
    path.write_text(f"current-context: '{current}'\ncontexts:{entries or ' []'}\n")
    return path


def test_help_loads_nothing_that_it_does_not_need() -> None:
    assert loaded(
        "from gpuid_operator.cli import plugin", "aiohttp", "pydantic", "rich", "yaml", *HEAVY
    ) == []  # fmt: skip


@pytest.mark.parametrize("command", ["where", "history", "list", "read", "complete"])
def test_no_command_loads_the_operator(command: str) -> None:
    assert loaded(f"import gpuid_operator.cli.plugin_{command}", *HEAVY) == []


def test_the_help_calls_the_program_as_people_do() -> None:
    for words in ["--help"], ["where", "--help"]:
        result = run(*words)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: kubectl gpuid")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["list", "--context", "a", "--contexts", "b,c"],
            "--context and --contexts are mutually exclusive",
        ),
        (["list", "--contexts", ", ,"], "contains no context name"),
        (["read"], "specify either node names or --all"),
        (["read", "n", "--all"], "specify either node names or --all"),
        (["read", "n", "--timeout", "soon"], "'soon' is not a duration such as 30s"),
        (["where"], "Missing argument"),
        (["export", "-o", "wide"], "'wide' is not one of"),
    ],
)
def test_wrong_usage_is_said(words: list[str], said: str) -> None:
    result = run(*words, KUBECONFIG="/nonexistent")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_without_a_cluster_one_line_says_so(tmp_path: Path) -> None:
    result = run("list", KUBECONFIG=str(tmp_path / "none"), KUBERNETES_SERVICE_HOST=None)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no cluster: no kubeconfig at")
    assert result.stderr.count("\n") == 1


def test_a_broken_kubeconfig_is_one_line_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("users: [{token: hidden-by-all-means\n")
    result = run("list", "--kubeconfig", str(file))
    assert result.exit_code == 1
    assert "is not valid YAML" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hidden" not in result.stderr


def test_contexts_are_those_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kubeconfig(tmp_path / "1", "a", "b")
    second = kubeconfig(tmp_path / "2", "b", "c", current="c")
    third = kubeconfig(tmp_path / "3", current="a")
    broken = tmp_path / "4"
    broken.write_text("[")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'none'}:{second}:{third}:{broken}")
    assert KubeconfigNames.read(None) == KubeconfigNames(current="c", contexts=("a", "b", "c"))
    assert KubeconfigNames.read(str(third)) == KubeconfigNames(current="a", contexts=())


def completed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    plugin_complete.answer(cli, words)
    return capsys.readouterr().out.splitlines()


def test_commands_and_options_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    *commands, directive = completed(capsys, "")
    assert [line.split("\t")[0] for line in commands] == [
        "export",
        "history",
        "list",
        "quarantine",
        "read",
        "ui",
        "where",
    ]
    assert directive == ":4"
    assert completed(capsys, "export", "-o", "") == ["csv", "json", ":4"]
    assert completed(capsys, "list", "--ser") == [
        "--serials\tOne row per GPU instead of one per node.",
        ":4",
    ]
    assert completed(capsys, "list", "--kubeconfig", "") == [":0"]
    assert completed(capsys) == [*commands, directive]


def test_contexts_are_completed_also_in_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(kubeconfig(tmp_path / "config", "prod-eu", "prod-us", "test"))
    config = ("list", "--kubeconfig", file)
    assert completed(capsys, *config, "--context", "prod") == ["prod-eu", "prod-us", ":4"]
    assert completed(capsys, *config, "--contexts", "test,prod-eu,p") == [
        "test,prod-eu,prod-us",
        ":6",
    ]


def test_without_a_cluster_nothing_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(capsys, "where", "--kubeconfig", str(tmp_path / "none"), "1") == [":4"]


COLUMNS = (
    CLUSTER,
    Column("node", "NODE"),
    Column("serials", "SERIALS"),
    Column("read", "READ", age=True),
    Column("note", "NOTE", wide=True, absent="unknown"),
)
ROWS = [{"cluster": "c", "node": "n", "serials": ["1", "2"], "read": None, "note": 'a "b"'}]


def test_rows_are_tables_json_or_csv(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(output: str, *, several: bool = False) -> str:
        show(ROWS, COLUMNS, output=output, several=several)
        return capsys.readouterr().out

    assert shown("table") == "NODE   SERIALS   READ\nn      1 2       -\n"
    assert shown("wide", several=True) == (
        'CLUSTER   NODE   SERIALS   READ   NOTE\nc         n      1 2       -      a "b"\n'
    )
    assert shown("csv") == 'cluster,node,serials,read,note\nc,n,1 2,,"a ""b"""\n'
    assert '"serials": [\n' in shown("json")


def test_no_rows_are_an_empty_list_only_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    for output, text in {
        "table": "",
        "json": "[]\n",
        "csv": "cluster,node,serials,read,note\n",
    }.items():
        show([], COLUMNS, output=output, several=False)
        assert capsys.readouterr().out == text


def test_what_hardware_says_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"node": "\x1b[2J[red]n\r\n"}], [Column("node", "NODE")], output="table", several=False)
    assert capsys.readouterr().out == "NODE\n?[2J[red]n??\n"


@pytest.mark.parametrize(
    ("since", "age"),
    [
        (timedelta(hours=-1), "0s"),
        (timedelta(minutes=5.5), "5m"),
        (timedelta(hours=3.5), "3h"),
        (timedelta(days=2.5), "2d"),
    ],
)
def test_ages_are_short(since: timedelta, age: str, capsys: pytest.CaptureFixture[str]) -> None:
    then = (datetime.now(UTC) - since).isoformat()
    show([{"t": then}], [Column("t", "T", age=True)], output="table", several=False)
    assert capsys.readouterr().out == f"T\n{age}\n"
