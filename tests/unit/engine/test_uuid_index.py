"""The index of inventories by UUID, and what its listener receives."""

from __future__ import annotations

import pytest

from gpuid_operator.engine.state.uuid_index import UUIDIndex


class Watched:
    """An index, and what it reported."""

    def __init__(self) -> None:
        self.index = UUIDIndex()
        self.index.listener = self
        self.said: list[tuple[str, str, bool]] = []

    def __call__(self, uuid: str, name: str, *, listed: bool) -> None:
        self.said.append((uuid, name, listed))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_uuid_of_one_inventory_is_no_news(watched: Watched) -> None:
    watched.index.update("n1", (), ("a", "b"))
    watched.index.update("n2", (), ("c",))
    watched.index.update("n1", ("a", "b"), ("b",))
    watched.index.update("n2", ("c",), ("a", "c"))
    assert watched.said == []
    assert [watched.index.names(uuid) for uuid in "abcd"] == [{"n2"}, {"n1"}, {"n2"}, frozenset()]


def test_a_uuid_of_several_inventories_is_reported(watched: Watched) -> None:
    for name in ("n1", "n2", "n3"):
        watched.index.update(name, (), ("a",))
    assert watched.said == [("a", "n2", True), ("a", "n3", True)]
    watched.index.update("n1", ("a",), ("b",))
    watched.index.update("n3", ("a",), ())
    assert watched.said[2:] == [("a", "n1", False), ("a", "n3", False)]
    assert watched.index.names("a") == {"n2"}
    watched.index.update("n2", ("a",), ())
    assert len(watched.said) == 4
    assert watched.index.names("a") == frozenset()


def test_an_inventory_that_lists_a_uuid_twice_lists_it(watched: Watched) -> None:
    watched.index.update("n1", (), ("a", "a"))
    watched.index.update("n1", ("a", "a"), ("a",))
    assert watched.index.names("a") == {"n1"}
    watched.index.update("n1", ("a",), ())
    assert watched.index.names("a") == frozenset()
    assert watched.said == []
