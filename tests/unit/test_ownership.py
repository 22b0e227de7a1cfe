"""Which fields of a status belong to the inventory instance, and which to check runners."""

from __future__ import annotations

from typing import Any

import pytest

from gpuid_operator.plan.ownership import foreign_checks, owned_fields

MANAGER = "gpuid-operator"


def owner(manager: str, **checks: dict[str, Any]) -> dict[str, Any]:
    keyed = {f'k:{{"name":"{name}"}}': fields for name, fields in checks.items()}
    return {"manager": manager, "fieldsV1": {"f:status": {"f:checks": {".": {}, **keyed}}}}


@pytest.mark.parametrize(
    ("managers", "foreign"),
    [
        pytest.param([], set(), id="no managers"),
        pytest.param([owner(MANAGER, a={"f:passed": {}})], set(), id="own check"),
        pytest.param([owner("runner", a={"f:passed": {}})], {"a"}, id="check of a runner"),
        pytest.param([owner("runner", a={"f:name": {}})], set(), id="no result yet"),
        pytest.param(
            [owner(MANAGER, a={"f:recorded": {}}), owner("runner", a={"f:passed": {}})],
            {"a"},
            id="both instances own fields",
        ),
        pytest.param([{"manager": "kubectl"}], set(), id="manager without fields"),
        pytest.param(
            [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}], set(), id="manager of the spec"
        ),
    ],
)
def test_the_manager_of_passed_owns_a_check(
    managers: list[dict[str, Any]], foreign: set[str]
) -> None:
    assert foreign_checks({"managedFields": managers}, manager=MANAGER) == foreign


def test_an_object_without_managed_fields_has_no_foreign_checks() -> None:
    assert foreign_checks({}, manager=MANAGER) == frozenset()


CHECK = {"name": "a", "passed": False, "transitions": 3}


@pytest.mark.parametrize(
    ("checks", "foreign", "applied"),
    [
        pytest.param([CHECK], set(), [CHECK], id="own check"),
        pytest.param([CHECK], {"b"}, [CHECK], id="another check is foreign"),
        pytest.param([CHECK], {"a"}, [], id="foreign check"),
        pytest.param(
            [{**CHECK, "recorded": 3}],
            {"a"},
            [{"name": "a", "recorded": 3}],
            id="foreign check with recorded transitions",
        ),
        pytest.param(
            [{**CHECK, "recorded": 0}],
            {"a"},
            [{"name": "a", "recorded": 0}],
            id="zero recorded transitions",
        ),
    ],
)
def test_results_of_foreign_checks_are_not_applied(
    checks: list[dict[str, Any]], foreign: set[str], applied: list[dict[str, Any]]
) -> None:
    status = {"state": "Present", "checks": checks}
    assert owned_fields(status, foreign=foreign) == {"state": "Present", "checks": applied}


def test_a_status_without_checks_is_applied_whole() -> None:
    status = {"state": "Present"}
    assert owned_fields(status, foreign=()) == status
    assert owned_fields(status, foreign={"a"}) == {"state": "Present", "checks": []}
