"""The fake API server behaves like a real one: tests/cluster/test_fake_kube.py runs these cases."""

from __future__ import annotations

import pytest

from tests.support.kube import FakeKube
from tests.support.kube_cases import Case
from tests.support.kube_list_cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_the_fake_does_as_an_api_server(case: Case, kube: FakeKube) -> None:
    await case(kube, "case")
