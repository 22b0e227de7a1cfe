"""Every command of the documentation is run by a test, or says what the reader has to bring."""

from __future__ import annotations

import re

import pytest

from tests.support.documented_commands import ROOT, RUN_BY, Command, commands


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
