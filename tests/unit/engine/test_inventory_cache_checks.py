"""What the cache knows of checks: their last results, who writes them, and whether all is told."""

from __future__ import annotations

from typing import Any

import pytest

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.engine.state.inventory_cache import (
    CachedInventory,
    InventoryCache,
    foreign_checks,
)
from gpuid_operator.plan.conditions import checks_passed


def inventory(status: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "5"} | meta,
        "status": status,
    }


def cached(cache: InventoryCache) -> CachedInventory:
    found = cache.get("n1")
    assert found is not None
    return found


def check(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "passed": False, "exitCode": 1, "transitions": 1} | fields


def said(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    condition = checks_passed(InventoryStatus.model_validate({"checks": checks}).checks)
    assert condition is not None
    return [
        {
            "type": "ChecksPassed",
            "status": condition.status.value,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": "2026-06-07T10:30:45Z",
        }
    ]


@pytest.mark.parametrize(
    ("checks", "told", "unsettled"),
    [
        pytest.param([], [], False, id="no checks"),
        pytest.param([check()], [], True, id="the condition is missing"),
        pytest.param([check()], [check()], True, id="the history does not have it"),
        pytest.param([check(recorded=1)], [check()], False, id="all of it is told"),
        pytest.param([check(recorded=1)], [check(exitCode=2)], True, id="the condition is old"),
        pytest.param([], [check()], True, id="the condition outlived the check"),
    ],
)
def test_results_of_others_are_unsettled_until_history_and_condition_have_them(
    checks: list[dict[str, Any]], told: list[dict[str, Any]], unsettled: bool
) -> None:
    cache = InventoryCache()
    status = {"checks": checks, "conditions": said(told) if told else []}
    cache.put_object(inventory(status))
    assert cached(cache).unsettled is unsettled


def test_outputs_of_checks_are_not_held_unpacked() -> None:
    cache = InventoryCache()
    assert cache.put_object(inventory({"checks": [check(stdout="long", stderr="too")]}))
    kept = [(check.name, check.stdout, check.stderr) for check in cached(cache).checks]
    assert kept == [("a", None, None)]
    whole = [(check.stdout, check.stderr) for check in cache.status("n1").checks or ()]
    assert whole == [("long", "too")]


def owner(manager: str, **checks: dict[str, Any]) -> dict[str, Any]:
    keyed = {f'k:{{"name":"{name}"}}': fields for name, fields in checks.items()}
    return {"manager": manager, "fieldsV1": {"f:status": {"f:checks": {".": {}, **keyed}}}}


def test_checks_are_of_whoever_writes_whether_they_passed() -> None:
    meta = {
        "managedFields": [
            owner("gpuid-operator", mine={"f:passed": {}}, theirs={"f:recorded": {}}),
            owner("runner", theirs={"f:passed": {}}, started={"f:name": {}}),
            {"manager": "kubectl"},
        ]
    }
    assert foreign_checks(meta, manager="gpuid-operator") == {"theirs"}
    assert foreign_checks({}, manager="gpuid-operator") == frozenset()


def test_an_inventory_without_checks_has_none_of_others() -> None:
    cache = InventoryCache()
    managed = [owner("runner", theirs={"f:passed": {}})]
    cache.put_object(inventory({}, managedFields=managed))
    assert cached(cache).foreign_checks == frozenset()
