"""Every command of the documentation is run by a test, or says what the reader has to bring."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.support.documented_commands import COLLECTED, ROOT, RUN_BY, Command, commands


@pytest.mark.parametrize("command", commands(), ids=lambda one: f"{one.page}: {one.text[:60]}")
def test_a_test_runs_it_or_the_block_says_what_it_needs(command: Command) -> None:
    assert command.run_by or command.needs, command


def test_what_runs_them_exists() -> None:
    for by in RUN_BY.values():
        file, _, test = by.partition("::")
        assert (ROOT / file).is_file(), by
        assert f"\ndef {test}(" in (ROOT / file).read_text() or not test, by


def test_every_pattern_is_of_a_command() -> None:
    texts = [command.text for command in commands() if not command.needs]
    found = {by for text in texts for by in RUN_BY if re.fullmatch(by, text)}
    assert set(RUN_BY) - found == set()


@pytest.mark.parametrize(
    "text", sorted({one.text for one in commands() if one.text.startswith("make ")})
)
def test_make_has_the_target(text: str) -> None:
    target = shlex.split(text)[1]
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "text", sorted({one.text for one in commands() if one.run_by == COLLECTED})
)
def test_pytest_finds_what_it_should_run(text: str) -> None:
    _, *arguments = shlex.split(text)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
