"""The checks of a cached inventory: their last results, and which instance writes them."""

from __future__ import annotations

from typing import Any

import pytest

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.inventory_cache import InventoryCache


@pytest.fixture
def cache() -> InventoryCache:
    return InventoryCache()


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


def test_an_unrecorded_result_makes_an_inventory_unsettled(cache: InventoryCache) -> None:
    cache.put_object(inventory({"checks": [check()]}))
    assert cached(cache).unsettled
    status = {"checks": [check(passed=None, transitions=None)]}
    cache.put_object(inventory(status, resourceVersion="6"))
    assert not cached(cache).unsettled


def test_outputs_of_checks_are_kept_compressed(cache: InventoryCache) -> None:
    assert cache.put_object(inventory({"checks": [check(stdout="long", stderr="too")]}))
    kept = [(check.name, check.stdout, check.stderr) for check in cached(cache).checks]
    assert kept == [("a", None, None)]
    whole = [(check.stdout, check.stderr) for check in cache.status("n1").checks or ()]
    assert whole == [("long", "too")]


MANAGED = [
    {
        "manager": "runner",
        "fieldsV1": {"f:status": {"f:checks": {'k:{"name":"a"}': {"f:passed": {}}}}},
    }
]


@pytest.mark.parametrize(("checks", "foreign"), [([check()], {"a"}), ([], set())])
def test_foreign_checks_are_known_if_the_status_has_checks(
    cache: InventoryCache, checks: list[dict[str, Any]], foreign: set[str]
) -> None:
    cache.put_object(inventory({"checks": checks}, managedFields=MANAGED))
    assert cached(cache).foreign_checks == foreign
