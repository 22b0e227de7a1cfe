"""The quarantines in memory: when they are known, and the order in which states arrive."""

from __future__ import annotations

from typing import Any

from gpuid_operator.api.quarantine import QuarantineStatus
from gpuid_operator.engine.state.quarantines import QuarantineCache
from tests.support.kube import FakeKube
from tests.support.objects import put_quarantine, quarantine_path

PART = {"serial": "1"}


def listed(*bodies: dict[str, Any]) -> QuarantineCache:
    cache = QuarantineCache()
    take_all(cache, *bodies)
    return cache


def take_all(cache: QuarantineCache, *bodies: dict[str, Any]) -> bool:
    with cache.listing() as known:
        return cache.take_all(bodies, known=known)


def names(cache: QuarantineCache) -> list[str]:
    assert cache.index is not None
    return sorted(cache.index.rules)


def test_nothing_is_known_before_a_complete_list(kube: FakeKube) -> None:
    cache = QuarantineCache()
    assert cache.index is None
    body = put_quarantine(kube, "a", PART)
    assert cache.take(body, deleted=False)
    assert cache.index is None
    assert take_all(cache, body, put_quarantine(kube, "b", PART)) is True
    assert names(cache) == ["a", "b"]


def test_an_empty_list_is_news_once() -> None:
    cache = QuarantineCache()
    assert take_all(cache) is True
    assert take_all(cache) is False
    assert names(cache) == []


def test_the_index_stays_the_same_until_something_changes(kube: FakeKube) -> None:
    body = put_quarantine(kube, "a", PART)
    cache = listed(body)
    before = cache.index
    assert cache.take(body, deleted=False) is False
    labelled = kube.change(
        quarantine_path("a"), lambda found: found["metadata"].update(labels={"a": "b"})
    )
    assert cache.take(labelled, deleted=False) is False
    assert cache.index is before
    assert cache.take(put_quarantine(kube, "a", PART, reason="new"), deleted=False) is True
    assert cache.index is not before


def test_a_quarantine_that_was_created_again_is_news(kube: FakeKube) -> None:
    cache = listed(put_quarantine(kube, "a", PART))
    kube.remove(quarantine_path("a"))
    assert cache.take(put_quarantine(kube, "a", PART), deleted=False) is True


def test_an_older_state_changes_nothing(kube: FakeKube) -> None:
    old = put_quarantine(kube, "a", PART)
    cache = listed(put_quarantine(kube, "a", PART, reason="new"))
    assert cache.take(old, deleted=False) is False
    assert take_all(cache, old) is False
    assert [found.spec.reason for found in cache] == ["new"]


def test_a_deletion_during_a_list_is_not_undone_by_it(kube: FakeKube) -> None:
    body = put_quarantine(kube, "a", PART)
    cache = listed(body)
    with cache.listing() as known:
        assert cache.take(body, deleted=True) is True
        assert cache.take_all([body], known=known) is False
    assert len(cache) == 0


def test_a_creation_during_a_list_is_not_undone_by_it(kube: FakeKube) -> None:
    cache = listed(put_quarantine(kube, "a", PART))
    with cache.listing() as known:
        cache.take(put_quarantine(kube, "b", PART), deleted=False)
        assert cache.take_all([], known=known) is True
    assert names(cache) == ["b"]


def test_one_that_cannot_be_parsed_is_named(kube: FakeKube) -> None:
    cache = listed(put_quarantine(kube, "a", PART), put_quarantine(kube, "b", PART, action="Evict"))
    assert [(found.name, found.fault.partition(":")[0]) for found in cache] == [
        ("a", ""),
        ("b", "spec.action"),
    ]
    assert names(cache) == ["a"]
    assert cache.index is not None
    assert cache.index.unreadable == {"b"}
    broken = put_quarantine(kube, "b", PART, action="Drain")
    assert cache.take(broken, deleted=False) is True  # its status names the generation
    assert cache.take(put_quarantine(kube, "b", PART), deleted=False) is True
    assert names(cache) == ["a", "b"]
    assert cache.take(put_quarantine(kube, "a", action="Evict"), deleted=False) is True
    assert cache.index is not None
    assert cache.index.unreadable == {"a"}


def test_a_status_that_was_written_is_stored_unless_the_quarantine_changed(
    kube: FakeKube,
) -> None:
    body = put_quarantine(kube, "a", PART)
    cache = listed(body)
    [before] = cache
    cache.put_status(before, QuarantineStatus(match_count=1), version="900")
    [written] = cache
    assert (written.status.match_count, written.resource_version) == (1, "900")
    cache.put_status(before, QuarantineStatus(match_count=2), version="901")
    assert [found.status.match_count for found in cache] == [1]
    assert cache.take(body, deleted=False) is False  # an older state
    assert [found.status.match_count for found in cache] == [1]


def test_what_is_not_served_any_more_is_not_known(kube: FakeKube) -> None:
    body = put_quarantine(kube, "a", PART)
    cache = listed(body)
    assert cache.forget_all() is True
    assert (cache.index, len(cache), cache.forget_all()) == (None, 0, False)
    assert take_all(cache, body) is True
    assert names(cache) == ["a"]


def test_a_status_that_cannot_be_parsed_does_not_disable_the_quarantine(kube: FakeKube) -> None:
    match = {"node": "n1", "since": "0000-01-01T00:00:00Z"}
    cache = listed({**put_quarantine(kube, "a", PART), "status": {"matches": [match]}})
    assert [(one.name, one.status) for one in cache] == [("a", QuarantineStatus())]
