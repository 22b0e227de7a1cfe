"""Whether one of the Secrets that a sink was given has changed."""

from __future__ import annotations

import pytest

from gpuid_operator.api.sinks import SecretKeyRef, SecretRef
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.sinks.base import SecretMissing
from tests.support.secret_source import Secrets

TOKEN = SecretKeyRef(name="cmdb", key="token")
PASSWORD = SecretKeyRef(name="cmdb", key="password")
KEYS = SecretRef(name="bucket")


@pytest.fixture
def source() -> Secrets:
    return Secrets(token="t-1", password="p-1")


@pytest.fixture
def secrets(source: Secrets) -> RecordingSecretSource:
    return RecordingSecretSource(source)


async def test_values_and_hosts_pass_through(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    assert await secrets.get(TOKEN, host="cmdb.example.com") == "t-1"
    assert await secrets.get_all(KEYS, host=None) == {"token": "t-1", "password": "p-1"}
    assert source.hosts == {"cmdb.example.com", None}


async def test_an_invalidation_passes_through(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    secrets.invalidate()
    assert source.invalidated == 1


async def test_a_secret_that_was_never_read_does_not_count(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    source.values["token"] = "t-2"
    assert not await secrets.changed()


async def test_another_value_is_a_change_until_the_sink_has_it(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    await secrets.get(TOKEN, host=None)
    await secrets.get(PASSWORD, host=None)
    assert not await secrets.changed()
    source.values["password"] = "p-2"
    assert await secrets.changed()
    assert await secrets.changed()
    await secrets.get(PASSWORD, host=None)
    assert not await secrets.changed()


async def test_another_value_of_a_whole_secret_is_a_change(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    await secrets.get_all(KEYS, host=None)
    assert not await secrets.changed()
    source.values["session"] = "s-1"
    assert await secrets.changed()


async def test_a_missing_secret_that_appears_is_a_change(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    del source.values["token"]
    with pytest.raises(SecretMissing):
        await secrets.get(TOKEN, host=None)
    assert not await secrets.changed()
    source.values["token"] = "t-1"
    assert await secrets.changed()


async def test_a_secret_that_disappears_is_a_change(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    await secrets.get(TOKEN, host=None)
    del source.values["token"]
    assert await secrets.changed()


async def test_the_comparison_reads_the_secrets_again(
    source: Secrets, secrets: RecordingSecretSource
) -> None:
    await secrets.get(TOKEN, host=None)
    await secrets.changed()
    assert source.invalidated == 1
