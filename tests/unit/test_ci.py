"""With CI in the environment nothing that is required can be skipped unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIPS = {
    "test": "import pytest\ndef test_it(): pytest.skip('no server')",
    "mark": "import pytest\n@pytest.mark.skip(reason='no server')\ndef test_it(): pass",
    "module": "import pytest\npytest.skip('no server', allow_module_level=True)",
}


def change(folder: Path, code: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)],
        env=os.environ | {"CI": ci, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(CONFTEST.parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("code", SKIPS.values(), ids=list(SKIPS))
def test_a_skip_fails_in_ci_and_says_why(tmp_path: Path, code: str) -> None:
    done = change(tmp_path, code, ci="true")
    assert done.returncode in (1, 2)  # a failed test, or a module that could not be collected
    assert "skipped, and CI requires it: no server" in done.stdout


@pytest.mark.parametrize("code", SKIPS.values(), ids=list(SKIPS))
def test_a_skip_is_a_skip_elsewhere(tmp_path: Path, code: str) -> None:
    done = change(tmp_path, code, ci="")
    assert done.returncode in (0, 5)  # 5: every module was skipped, no test is left
    assert "1 skipped" in done.stdout


def test_data_beside_the_repository_may_be_missing(tmp_path: Path) -> None:
    code = "import pytest\ndef test_it(): pytest.skip('the real output x.xml is not here')"
    assert change(tmp_path, code, ci="true").returncode == 0


def test_an_expected_failure_is_none(tmp_path: Path) -> None:
    code = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    assert change(tmp_path, code, ci="true").returncode == 0
