"""Full histories are those that the operator would keep, and holds are found in its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.plan.history import bounded
from tests.bench.histories import full, labels
from tests.bench.known import holds

TIME = "2026-06-01T00:00:00Z"


def read() -> dict[str, Any]:
    """The status of a node with eight GPUs after its first read."""
    gpus = [
        {"uuid": f"GPU-{n}", "serial": f"16{n}", "pciAddress": f"00000000:0{n}:00.0", "index": n}
        for n in range(8)
    ]
    history = [
        {"sequence": n + 1, "time": TIME, "type": "GPUAdded"}
        | {key: value for key, value in gpu.items() if key != "index"}
        for n, gpu in enumerate(gpus)
    ]
    history.append({"sequence": 9, "time": TIME, "type": "Sighted", "seen": []})
    return {
        "state": "Present",
        "sequence": 9,
        "gpuCount": 8,
        "gpus": gpus,
        "history": history,
        "sinks": [{"name": "stdout", "type": "stdout", "deliveredSequence": 9, "pending": 0}],
    }


def test_a_full_history_is_what_the_operator_keeps() -> None:
    status = InventoryStatus.model_validate(full(read()))
    history = status.history or []
    assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
    assert status.sequence == len(history) == 9 + 50 + 20
    gpus = status.gpus or []
    writer = Mock()
    assert bounded(history, gpus=gpus, present=True, waiting=(), writer=writer) == history
    assert not writer.mock_calls
    assert [sink.delivered_sequence for sink in status.sinks or ()] == [status.sequence]


def test_only_the_history_and_the_cursors_change() -> None:
    before = read()
    after = full(before)
    assert before == read()
    for key in before.keys() - {"history", "sequence", "sinks"}:
        assert after[key] == before[key]
    assert after["history"][: len(before["history"])] == before["history"]


def test_the_labels_name_present_and_past_parts() -> None:
    values = list(labels(full(read())).values())
    assert values.count("present") == 16
    assert values.count("past") > 40


def test_holds_are_the_longest_after_a_position(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def line(msg: str, **fields: float) -> str:
        return json.dumps({"msg": msg, **fields}) + "\n"

    early = line("loop held", hold_ms=900.0, hold_cpu_ms=800.0)
    late = line("loop held", hold_ms=30.0, hold_cpu_ms=25.5)
    late += line("other") + line("loop held", hold_ms=40.5, hold_cpu_ms=5.0)
    log.write_text(early + late + '{"msg": "loop held", "hold')
    assert holds(log, len(early)) == {"hold_ms": 40.5, "hold_cpu_ms": 25.5}
    assert holds(log, log.stat().st_size) == {"hold_ms": 0.0, "hold_cpu_ms": 0.0}
