"""How few watches bring the pods of many selectors, and to which selector a pod belongs."""

from __future__ import annotations

from gpuid_operator.engine.core.pod_selector import PodSelector, merge, selects
from gpuid_operator.plan.presets import expand


def pods(*texts: str, namespace: str = "a") -> list[PodSelector]:
    return [PodSelector(namespace, text) for text in texts]


def watches(*selectors: PodSelector) -> list[str]:
    return sorted(f"{one.namespace}: {one.selector}" for one in merge(selectors))


def test_selectors_of_one_label_share_a_watch() -> None:
    assert watches(*pods("app=b", "app=a", "app==c", "app=a")) == ["a: app in (a,b,c)"]
    assert merge(pods("app=b", "app=a")) == {
        PodSelector("a", "app in (a,b)"): tuple(pods("app=a", "app=b"))
    }


def test_selectors_that_differ_otherwise_have_watches_of_their_own() -> None:
    apart = pods("app=a", "name=a", "app!=b", "app in (c,d)", "app", "!app")
    assert len(merge([*apart, *pods("app=a", namespace="b"), *pods("app=c,tier=x")])) == 8


def test_further_requirements_are_kept() -> None:
    assert watches(*pods("app=a,tier!=x", "app=b,tier!=x", "app=c,tier!=y")) == [
        "a: app in (a,b),tier!=x",
        "a: app=c,tier!=y",
    ]


def test_a_selector_alone_stays_as_it_is() -> None:
    (alone,) = pods("x in (a, b)")
    assert merge([alone]) == {alone: (alone,)}
    # The API server has matched it.
    assert selects(alone, {}, members=(alone,))


def test_a_pod_of_a_shared_watch_belongs_to_the_selector_of_its_value() -> None:
    first, second = members = tuple(pods("app=a,tier!=x", "app=b,tier!=x"))
    assert selects(first, {"app": "a"}, members=members)
    assert not selects(second, {"app": "a"}, members=members)
    assert not selects(first, {}, members=members)


def test_auto_needs_few_watches() -> None:
    wanted = {PodSelector(one.namespace, one.selector) for one in expand("auto")}
    merged = merge(wanted)
    assert {one for members in merged.values() for one in members} == wanted
    by_namespace: dict[str, int] = {}
    for watch in merged:
        by_namespace[watch.namespace] = by_namespace.get(watch.namespace, 0) + 1
    assert by_namespace["gpu-operator"] == 2
    assert max(by_namespace.values()) == 3
    assert len(merged) == 11
