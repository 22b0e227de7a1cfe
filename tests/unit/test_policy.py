"""Which policy rules a node, and what is in force there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import LabelSelector, Policy, PolicySpec
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.policy import (
    by_precedence,
    matching,
    policy_status,
    resolve_policy,
    selector_text,
    selects,
)

LABELS = {"pool": "gpu", "zone": "a"}
HOUR = timedelta(hours=1)
BUILTIN = PolicySpec.model_validate(
    {
        "readInterval": "24h",
        "sightingInterval": "24h",
        "nodeLabels": True,
        "retention": "720h",
        "sinks": [{"name": "environment", "records": "sightings", "stdout": {}}],
        "checks": [],
    }
)


def policy(name: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Policy:
    return Policy.from_object(
        {"metadata": {"name": name, "creationTimestamp": created}, "spec": spec}
    )


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (None, True),
        ({}, True),
        ({"matchLabels": {}}, True),
        ({"matchLabels": {"pool": "gpu"}}, True),
        ({"matchLabels": {"pool": "gpu", "zone": "a"}}, True),
        ({"matchLabels": {"pool": "gpu", "zone": "b"}}, False),
        ({"matchLabels": {"none": ""}}, False),
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["x", "gpu"]}]}, True),
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["gpu"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "pool", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "none", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "pool", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}, True),
        (
            {
                "matchLabels": {"pool": "gpu"},
                "matchExpressions": [{"key": "none", "operator": "Exists"}],
            },
            False,
        ),
    ],
)
def test_selectors_match_as_in_kubernetes(selector: Any, matches: bool) -> None:
    parsed = None if selector is None else LabelSelector.model_validate(selector)
    assert selects(parsed, LABELS) is matches


def test_a_selector_as_the_api_server_takes_it() -> None:
    selector = LabelSelector.model_validate(
        {
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["y", "x"]},
                {"key": "d", "operator": "NotIn", "values": ["z"]},
                {"key": "e", "operator": "Exists"},
                {"key": "f", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector_text(selector) == "a=1,b=2,c in (x,y),d notin (z),e,!f"
    assert selector_text(LabelSelector()) == ""


class TestRuling:
    young = policy("a-young", "2026-02-01T00:00:00Z")
    old = policy("z-old", "2026-01-01T00:00:00Z")
    twin = policy("b-twin", "2026-02-01T00:00:00Z")
    strong = policy("strong", "2026-03-01T00:00:00Z", priority=5)
    weak = policy("weak", "2025-01-01T00:00:00Z", priority=-1)
    elsewhere = policy("else", priority=9, nodeSelector={"matchLabels": {"pool": "cpu"}})

    def test_priority_then_age_then_name(self) -> None:
        order = by_precedence([self.twin, self.weak, self.young, self.strong, self.old])
        assert [p.name for p in order] == ["strong", "z-old", "a-young", "b-twin", "weak"]

    def test_the_highest_that_matches_rules_alone(self) -> None:
        policies = by_precedence([self.old, self.strong, self.elsewhere])
        assert matching(policies, LABELS) == [self.strong]

    def test_equals_are_in_conflict(self) -> None:
        assert matching(by_precedence([self.young, self.weak, self.old]), LABELS) == [
            self.old,
            self.young,
        ]

    def test_none_matches(self) -> None:
        assert matching([self.elsewhere], LABELS) == []
        assert matching([], LABELS) == []

    @given(st.permutations([young, old, twin, strong, weak]))
    def test_the_order_of_arrival_does_not_matter(self, policies: list[Policy]) -> None:
        assert by_precedence(policies) == by_precedence(reversed(policies))


class TestInForce:
    def test_without_a_policy_the_builtin_one_is(self) -> None:
        effective = resolve_policy(None, builtin=BUILTIN, spec=InventorySpec())
        assert (effective.policy, effective.suspended, effective.node_labels) == ("", False, True)
        assert (effective.read_interval, effective.retention) == (24 * HOUR, 720 * HOUR)
        assert [sink.name for sink in effective.sinks] == ["environment"]
        assert effective.builtin_sinks == {"environment"}

    def test_what_a_policy_leaves_out_is_the_builtin_value(self) -> None:
        effective = resolve_policy(
            policy("fleet", readInterval="1h"), builtin=BUILTIN, spec=InventorySpec()
        )
        assert (effective.policy, effective.read_interval) == ("fleet", HOUR)
        assert effective.sighting_interval == 24 * HOUR
        assert effective.builtin_sinks == {"environment"}

    def test_what_a_policy_says_counts_even_when_it_is_nothing(self) -> None:
        effective = resolve_policy(
            policy("fleet", readInterval="0s", nodeLabels=False, sinks=[]),
            builtin=BUILTIN,
            spec=InventorySpec(),
        )
        assert (effective.read_interval, effective.node_labels) == (timedelta(0), False)
        assert (effective.sinks, effective.builtin_sinks) == ((), frozenset())

    def test_a_node_replaces_a_sink_of_the_same_name_and_adds_others(self) -> None:
        spec = InventorySpec.model_validate(
            {
                "sinks": [
                    {"name": "cmdb", "http": {"url": "https://b"}},
                    {"name": "mine", "stdout": {}},
                ]
            }
        )
        fleet = policy(
            "fleet",
            sinks=[
                {"name": "cmdb", "http": {"url": "https://a"}},
                {"name": "logs", "stdout": {}},
            ],
        )
        effective = resolve_policy(fleet, builtin=BUILTIN, spec=spec)
        assert [sink.name for sink in effective.sinks] == ["cmdb", "logs", "mine"]
        assert effective.sinks[0].http is not None
        assert effective.sinks[0].http.url == "https://b"
        assert effective.builtin_sinks == frozenset()

    def test_a_sink_that_takes_the_builtin_name_gets_none_of_its_credentials(self) -> None:
        spec = InventorySpec.model_validate(
            {"sinks": [{"name": "environment", "http": {"url": "https://b"}}]}
        )
        assert resolve_policy(None, builtin=BUILTIN, spec=spec).builtin_sinks == frozenset()
        named = policy("fleet", sinks=[{"name": "environment", "stdout": {}}])
        assert (
            resolve_policy(named, builtin=BUILTIN, spec=InventorySpec()).builtin_sinks
            == frozenset()
        )

    @pytest.mark.parametrize(
        ("operator", "from_policy", "builtin", "node", "suspended"),
        [
            (False, None, None, None, False),
            (True, None, None, None, True),
            (True, False, None, False, True),
            (False, True, None, None, True),
            (False, True, None, False, True),
            (False, False, None, True, True),
            (False, None, True, None, True),
            (False, False, True, None, False),
        ],
    )
    def test_suspension(
        self,
        operator: bool,
        from_policy: bool | None,
        builtin: bool | None,
        node: bool | None,
        suspended: bool,
    ) -> None:
        effective = resolve_policy(
            policy("fleet", suspend=from_policy),
            builtin=BUILTIN.model_copy(update={"suspend": builtin}),
            spec=InventorySpec(suspend=node),
            suspended=operator,
        )
        assert effective.suspended is suspended

    def test_the_context_of_a_status(self) -> None:
        fleet = policy(
            "fleet",
            sightingInterval="2h",
            sinks=[
                {"name": "lake", "s3": {"bucket": "b"}},
                {"name": "rows", "s3": {"bucket": "b", "format": "jsonl"}},
                {"name": "logs", "records": "sightings", "stdout": {}},
            ],
        )
        context = resolve_policy(fleet, builtin=BUILTIN, spec=InventorySpec()).status_context(7)
        assert (context.policy, context.generation, context.sighting_interval) == (
            "fleet",
            7,
            2 * HOUR,
        )
        assert context.sink_filters == (
            SinkFilter("lake", "s3", sightings=True),
            SinkFilter("rows", "s3", sightings=False),
            SinkFilter("logs", "stdout", sightings=True),
        )


class TestStatus:
    now = datetime(2026, 6, 7, tzinfo=UTC)

    def conditions(self, subject: Policy, **facts: Any) -> dict[str, tuple[str, str]]:
        given: dict[str, Any] = {"contenders": [], "checks_allowed": False} | facts
        status = policy_status(subject, matched=3, now=self.now, **given)
        assert status.matched_nodes == 3
        return {item.type: (item.status.value, item.reason) for item in status.conditions or ()}

    def test_in_force(self) -> None:
        assert self.conditions(policy("fleet")) == {
            "Ready": ("True", "InForce"),
            "Conflict": ("False", "NoConflict"),
        }

    def test_the_priority_is_the_one_in_force(self) -> None:
        def found(subject: Policy) -> int | None:
            return policy_status(
                subject, matched=3, contenders=[], checks_allowed=False, now=self.now
            ).priority

        assert found(policy("fleet")) == 0
        assert found(policy("fleet", priority=-5)) == -5
        broken = policy("fleet").model_copy(update={"fault": "priority: expected an integer"})
        assert found(broken) is None

    def test_conflict_names_the_others(self) -> None:
        subject = policy("fleet")
        found = self.conditions(subject, contenders=["b", "a"])
        assert found["Conflict"] == ("True", "SamePriority")
        status = policy_status(
            subject, matched=0, contenders=["b", "a"], checks_allowed=False, now=self.now
        )
        assert "a, b" in (status.conditions or [])[0].message

    def test_checks_that_are_not_allowed(self) -> None:
        check = {"name": "c", "podSelector": {}, "command": "true"}
        subject = policy("fleet", checks=[check])
        assert self.conditions(subject)["Ready"][1] == "ChecksDisabled"
        assert self.conditions(subject, checks_allowed=True)["Ready"][1] == "InForce"

    def test_the_same_again_is_equal(self) -> None:
        subject = policy("fleet")
        first = policy_status(subject, matched=3, contenders=[], checks_allowed=False, now=self.now)
        later = subject.model_copy(update={"status": first})
        assert first == policy_status(
            later, matched=3, contenders=[], checks_allowed=False, now=self.now + HOUR
        )

    def test_a_check_with_an_invalid_label_key_is_left_out(self) -> None:
        bad = {"name": "bad", "podSelector": {"matchLabels": {"a/b/c": "x"}}, "command": "true"}
        good = {"name": "good", "podSelector": {}, "command": "true"}
        subject = policy("fleet", checks=[bad, good])
        found = self.conditions(subject, checks_allowed=True)
        assert found["Ready"] == ("False", "InvalidSelector")
        effective = resolve_policy(
            subject, builtin=BUILTIN, spec=InventorySpec(), checks_allowed=True
        )
        assert [check.name for check in effective.checks] == ["good"]
