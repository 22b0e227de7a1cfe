"""Results of scenarios, as files: build/bench/SCENARIO.json."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gpuid_operator import __version__
from tests.bench.programs import python_version
from tests.bench.tables import tables

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "bench"
LOAD_BEFORE: Final = round(os.getloadavg()[0], 1)
"""Load of the machine over a minute when this process started, before its own."""


def save(scenario: str, figures: dict[str, Any], *, seconds: float, folder: Path = FOLDER) -> Path:
    """Write the figures of a scenario, which took so many seconds, with what they were taken on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scenario}.json"
    content = {"scenario": scenario, **figures, "seconds": round(seconds), "taken": taken()}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def report(scenario: str, figures: dict[str, Any], *, seconds: float) -> None:
    """Save the figures of a scenario, and print its tables."""
    path = save(scenario, figures, seconds=seconds)
    for table in tables(load()[scenario]):
        table.show(Console(width=140))
    print(f"{scenario}: took {seconds:.0f} s; {path.relative_to(ROOT)}", flush=True)


def load(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The saved results by scenario."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in found.items() if result.get("scenario") == name}


def taken() -> dict[str, Any]:
    """When, and on which machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "commit": _commit(),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(memory),
        "python": python_version(),
        "load": LOAD_BEFORE,
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
