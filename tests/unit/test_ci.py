"""With CI in the environment nothing that is required can be skipped unseen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIPS = {
    "test": "import pytest\ndef test_it(): pytest.skip('no server')",
    "mark": "import pytest\n@pytest.mark.skip(reason='no server')\ndef test_it(): pass",
    "module": "import pytest\npytest.skip('no server', allow_module_level=True)",
}


Outcome = Callable[[str, str], pytest.RunResult]


@pytest.fixture
def outcome(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Runs a test module beside our conftest, with a value of CI in the environment."""

    def run(code: str, ci: str) -> pytest.RunResult:
        pytester.makeconftest(CONFTEST.read_text())
        pytester.makepyfile(test_it=code)
        monkeypatch.setenv("CI", ci)
        scope = "asyncio_default_fixture_loop_scope=function"
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-c", os.devnull, "-o", scope)

    return run


@pytest.mark.parametrize("code", SKIPS.values(), ids=list(SKIPS))
def test_a_skip_fails_in_ci_and_says_why(outcome: Outcome, code: str) -> None:
    done = outcome(code, "true")
    assert done.ret in (1, 2)  # a failed test, or a module that could not be collected
    assert "skipped, and CI requires it: no server" in done.stdout.str()


@pytest.mark.parametrize("code", SKIPS.values(), ids=list(SKIPS))
def test_a_skip_is_a_skip_elsewhere(outcome: Outcome, code: str) -> None:
    done = outcome(code, "")
    assert done.ret in (0, 5)  # 5: every module was skipped, no test is left
    assert "1 skipped" in done.stdout.str()


def test_data_beside_the_repository_may_be_missing(outcome: Outcome) -> None:
    code = "import pytest\ndef test_it(): pytest.skip('the real output x.xml is not here')"
    assert outcome(code, "true").ret == 0


def test_an_expected_failure_is_none(outcome: Outcome) -> None:
    code = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    assert outcome(code, "true").ret == 0
