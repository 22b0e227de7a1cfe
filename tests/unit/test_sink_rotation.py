"""Values of Secrets that are rotated: what the log masks, and what it forgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks.http_client import Answer, HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from gpuid_operator.telemetry import redact
from gpuid_operator.telemetry.redact import redact_text
from tests.support.secret_source import Secrets

SPEC = Sink.model_validate(
    {
        "name": "cmdb",
        "http": {"url": "https://cmdb/in", "tokenSecretRef": {"name": "cmdb", "key": "token"}},
    }
)


class FakeHTTP(HTTPClient):
    """Accepts every batch."""

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], **_: Any) -> Answer:
        assert redact_text(headers["Authorization"]) == "Bearer ***"
        return Answer(status=200, phrase="OK", retry_after=None, text="", truncated=False)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_secrets", redact._Secrets())


async def test_the_token_in_use_is_masked_and_an_old_one_is_forgotten() -> None:
    secrets = Secrets(token="token-of-day-0")
    context = SinkContext(http=FakeHTTP(), write_records=lambda _: None)
    sink, idle = (open_sink(SPEC, secrets=secrets, context=context) for _ in range(2))
    secrets.values["token"] = "token-of-the-idle-sink"
    await idle.send([])
    for day in range(1, 366):
        secrets.values["token"] = f"token-of-day-{day}"
        await sink.send([])
    assert redact_text("token-of-day-365 token-of-day-364") == "*** ***"
    assert redact_text("token-of-the-idle-sink") == "***"
    assert redact_text("token-of-day-0 token-of-day-200") == "token-of-day-0 token-of-day-200"
    assert len(redact._secrets.texts) < 100


async def test_a_closed_sink_holds_no_token() -> None:
    secrets = Secrets()
    context = SinkContext(http=FakeHTTP(), write_records=lambda _: None)
    for number in range(365):
        secrets.values["token"] = f"token-of-sink-{number}"
        sink = open_sink(SPEC, secrets=secrets, context=context)
        await sink.send([])
        await sink.close()
    assert len(redact._secrets.texts) < 100
