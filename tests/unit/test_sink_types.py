"""Each type of sinks has what CONTRIBUTING.md asks of it."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from gpuid_operator.api.sinks import RULES, TYPE_NAMES, TYPES, Sink
from gpuid_operator.sinks.opening import SinkOpening
from tests.support.fleetwide import RECEIVERS

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text()


@pytest.mark.parametrize("kind", TYPES)
def test_the_module_of_its_name_opens_it(kind: str) -> None:
    opens = inspect.signature(
        import_module(f"gpuid_operator.sinks.{kind}").open_sink, eval_str=True
    )
    spec, opening = (parameter.annotation for parameter in opens.parameters.values())
    assert Sink.model_fields[kind].annotation == spec | None
    assert opening is SinkOpening
    assert {"send", "close"} <= set(dir(opens.return_annotation))


@pytest.mark.parametrize("kind", TYPES)
def test_it_is_documented_with_an_example(kind: str) -> None:
    (section,) = re.findall(rf"(?ms)^##+ {kind}$(.*?)(?=^##+ |\Z)", PAGE)
    assert re.search(rf"(?m)^  {kind}:", section)


def test_the_kill_tests_include_it() -> None:
    assert set(TYPES) - {"stdout"} <= set(RECEIVERS)  # the log is included without a server


def test_messages_name_every_type() -> None:
    (one_of,) = RULES[Sink]
    for kind in TYPES:
        assert f"has(self.{kind})" in one_of["rule"]
        assert re.search(rf"\b{kind}\b", TYPE_NAMES)
    assert f"set exactly one of {TYPE_NAMES}" in one_of["message"]
