"""Records and requests are counted in logs that are still written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.audit import AuditLog, is_exec, is_write, requests_in
from tests.bench.records import RecordCounter

USER = "system:serviceaccount:gpuid:bench"


def test_a_record_counts_once_its_line_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    counter = RecordCounter(log)
    log.write_bytes(b'{"msg":"starting"}\n{"msg":"gpu serial number reading","gpu":"1"}\n')
    assert counter.count() == 1
    with log.open("ab") as file:
        file.write(b'{"msg":"gpu serial')
        file.flush()
        assert counter.count() == 1
        file.write(b' number reading","gpu":"2"}\n{"msg":"gpu serial number reading"}\n')
    assert counter.count() == 3
    assert counter.count() == 3


def line(number: int, verb: str, resource: str, *, user: str = USER, **more: Any) -> bytes:
    reference = {"resource": resource} | more
    event = {
        "auditID": f"id-{number}",
        "verb": verb,
        "user": {"username": user},
        "objectRef": reference,
        "requestURI": f"/api/v1/{resource}?limit=1",
    }
    return json.dumps(event).encode() + b"\n"


def test_requests_count_by_verb_and_resource_and_both_ends_of_a_stream_once() -> None:
    lines = [
        line(1, "list", "gpuinventories"),
        line(2, "list", "gpuinventories"),
        line(3, "create", "pods", subresource="exec"),
        line(3, "create", "pods", subresource="exec"),
        line(4, "patch", "gpuinventories", subresource="status"),
        line(5, "patch", "nodes", user="admin"),
        line(6, "patch", "nodes", user=f"{USER}-of-another"),
    ]
    counts = Counter(requests_in(lines, user=USER).values())
    assert counts == {
        "list gpuinventories": 2,
        "create pods/exec": 1,
        "patch gpuinventories/status": 1,
    }
    assert [one for one in counts if is_write(one)] == ["patch gpuinventories/status"]
    assert [one for one in counts if is_exec(one)] == ["create pods/exec"]


def test_a_request_without_a_resource_counts_by_its_path() -> None:
    event = json.loads(line(1, "get", "x"))
    del event["objectRef"]
    event["requestURI"] = "/version?timeout=1s"
    found = requests_in([json.dumps(event).encode()], user=USER)
    assert list(found.values()) == ["get /version"]


def test_an_audit_log_counts_from_its_beginning_and_from_each_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(line(1, "get", "nodes"))
    log = AuditLog(path, user=USER)
    with path.open("ab") as file:
        file.write(line(2, "get", "pods"))
    assert log.requests() == {"get pods": 1}
    with path.open("ab") as file:
        file.write(line(3, "get", "pods")[:-9])
        file.flush()
        assert log.requests() == {"get pods": 1}
        file.write(line(3, "get", "pods")[-9:] + line(2, "get", "pods"))
    assert log.requests() == {"get pods": 2}
    log.restart()
    assert log.requests() == {}
