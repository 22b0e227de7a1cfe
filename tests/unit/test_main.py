"""The command `gpuid-operator`: what it imports, and what is left of it in the image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from release.app import assemble
from release.project import ROOT

REFUSES = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("gpuid_operator.localcluster"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refusing())
"""
"""A prelude under which an import of the local cluster fails."""


def python(code: str, *, path: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds packages in `path`, with no other environment variable."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.defpath, "PYTHONPATH": str(path)} | environment,
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )


def command(*words: str) -> str:
    """Code that runs the program with these words."""
    return f"from gpuid_operator.cli.main import main\nmain({list(words)!r})"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /app of the image, without the packages of other projects."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "wheels").mkdir()
    assemble(folder / "wheels", ROOT, folder / "app")
    return folder / "app"


def test_crds_imports_nothing_of_the_local_cluster() -> None:
    done = python(REFUSES + command("crds"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kind: CustomResourceDefinition") == 3


def test_run_imports_nothing_of_the_local_cluster() -> None:
    """A wrong setting ends `run` when all modules of the operator are imported."""
    done = python(REFUSES + command("run"), WORKERS="none")
    assert "is imported" not in done.stderr + done.stdout
    assert done.returncode == 2
    assert "WORKERS" in done.stdout


def test_the_plugin_imports_nothing_of_the_local_cluster() -> None:
    modules = sorted((ROOT / "gpuid_operator" / "cli").glob("plugin*.py"))
    imports = "\n".join(f"import gpuid_operator.cli.{module.stem}" for module in modules)
    done = python(REFUSES + imports)
    assert done.returncode == 0, done.stderr


def test_the_import_hook_of_these_tests_refuses_the_local_cluster() -> None:
    done = python(REFUSES + "import gpuid_operator.cli.demo")
    assert "gpuid_operator.localcluster is imported" in done.stderr


def test_the_image_contains_neither_the_local_cluster_nor_the_demo(app: Path) -> None:
    package = app / "gpuid_operator"
    assert not (package / "localcluster").exists()
    sources = {path.name: path.read_text() for path in package.rglob("*.py")}
    assert not [name for name, text in sources.items() if "gpuid_operator.localcluster" in text]
    assert (package / "operator" / "app.py").is_file()


def test_the_help_of_the_image_lists_the_commands_that_it_contains(app: Path) -> None:
    done = python(command("--help"), path=app)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line.strip()] == ["crds", "run"]


def test_the_image_has_what_run_and_the_plugin_import(app: Path) -> None:
    done = python(command("run"), path=app, WORKERS="none")
    assert done.returncode == 2, done.stderr
    assert "WORKERS" in done.stdout
    where = "import gpuid_operator; print(gpuid_operator.__file__)\n"
    done = python(where + "import gpuid_operator.cli.plugin_where", path=app)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(app))


@pytest.mark.parametrize("name", ["demo", "cluster"])
def test_a_command_that_the_image_lacks_says_where_it_is(app: Path, name: str) -> None:
    done = python(command(name, "--help"), path=app)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: the command '{name}' is not part of the image; install the Python package"
        " gpuid-operator to use it\n"
    )
