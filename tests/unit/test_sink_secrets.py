"""Secrets of sinks: by label, for allowed hosts, read again each minute and when refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gpuid_operator.api.secret import SecretData
from gpuid_operator.api.sinks import SecretKeyRef, SecretRef
from gpuid_operator.sinks.base import SecretMissing, SecretNotAllowed, Unavailable, one_line, scrub
from gpuid_operator.sinks.secrets import EnvironmentSecrets, KubernetesSecrets

LABEL = {"gpuid.github.com/sink": "true"}
REF = SecretKeyRef(name="cmdb", key="token")


class Cluster:
    """The Secrets of a namespace, a clock, and a count of reads."""

    def __init__(self, **secrets: SecretData) -> None:
        self.secrets = secrets
        self.reads = 0
        self.time = 0.0
        self.error: Exception | None = None
        self.source = KubernetesSecrets(self._read, lambda: self.time)

    async def _read(self, name: str) -> SecretData | None:
        self.reads += 1
        if self.error:
            raise self.error
        return self.secrets.get(name)


def _secret(
    value: bytes = b"s3cret\n",
    *,
    hosts: str | None = None,
    labels: Mapping[str, str] = LABEL,
) -> SecretData:
    annotations = {} if hosts is None else {"gpuid.github.com/allowed-hosts": hosts}
    return SecretData(data={"token": value}, labels=labels, annotations=annotations)


async def test_a_value_is_read_again_after_a_minute() -> None:
    cluster = Cluster(cmdb=_secret())
    assert await cluster.source.get(REF, host="a") == "s3cret"
    cluster.secrets["cmdb"] = _secret(b"new")
    cluster.time = 59.0
    assert await cluster.source.get(REF, host="a") == "s3cret"
    assert cluster.reads == 1
    cluster.time = 60.0
    assert await cluster.source.get(REF, host="a") == "new"


async def test_a_refused_value_is_read_again_at_once() -> None:
    cluster = Cluster(cmdb=_secret())
    await cluster.source.get(REF, host="a")
    cluster.secrets["cmdb"] = _secret(b"new")
    cluster.source.invalidate()
    assert await cluster.source.get_all(SecretRef(name="cmdb"), host="a") == {"token": "new"}


async def test_an_outage_of_the_api_server_does_not_take_a_known_value() -> None:
    cluster = Cluster(cmdb=_secret())
    cluster.error = ConnectionError("no route")
    with pytest.raises(Unavailable, match="failed to read Secret cmdb: no route"):
        await cluster.source.get(REF, host="a")
    cluster.error = None
    await cluster.source.get(REF, host="a")
    cluster.error = ConnectionError("no route")
    cluster.time = 3600.0
    assert await cluster.source.get(REF, host="a") == "s3cret"


@pytest.mark.parametrize(
    ("secret", "error", "words"),
    [
        (None, SecretMissing, "Secret cmdb does not exist"),
        (SecretData(data={"other": b""}, labels=LABEL), SecretMissing, "has no key token"),
        (_secret(b"\xff"), SecretMissing, "key token of Secret cmdb is not UTF-8"),
        (SecretData(data={"token": b""}), SecretNotAllowed, 'label gpuid.github.com/sink: "true"'),
        (
            _secret(labels={"gpuid.github.com/sink": "no"}),
            SecretNotAllowed,
            "not labeled for sinks",
        ),
        (_secret(hosts="b.example.com"), SecretNotAllowed, "must not be sent to a.example.com"),
        (_secret(hosts=""), SecretNotAllowed, "allowed-hosts"),
    ],
)
async def test_what_is_wrong_names_secret_and_key(
    secret: SecretData | None, error: type[Exception], words: str
) -> None:
    cluster = Cluster(**({} if secret is None else {"cmdb": secret}))
    with pytest.raises(error, match=words):
        await cluster.source.get(REF, host="a.example.com")


async def test_allowed_hosts_are_compared_as_names() -> None:
    cluster = Cluster(cmdb=_secret(hosts="b, A.example.com ,::1"))
    assert await cluster.source.get(REF, host="a.EXAMPLE.com.") == "s3cret"
    assert await cluster.source.get(REF, host="::1") == "s3cret"
    for host in ("example.com", "a.example.com.evil.org", "", None):
        with pytest.raises(SecretNotAllowed):
            await cluster.source.get(REF, host=host)


async def test_the_environment_serves_its_own_name_only() -> None:
    source = EnvironmentSecrets({"HTTP_AUTH_TOKEN": "t", "AWS_REGION": "r", "HOME": "/"})
    ref = SecretKeyRef(name="environment", key="HTTP_AUTH_TOKEN")
    assert await source.get(ref, host=None) == "t"
    assert await source.get_all(SecretRef(name="environment"), host=None) == {"AWS_REGION": "r"}
    with pytest.raises(SecretMissing, match="POSTGRES_USER is not set"):
        await source.get(SecretKeyRef(name="environment", key="POSTGRES_USER"), host=None)
    with pytest.raises(SecretMissing, match="not Secret cmdb"):
        await source.get(REF, host=None)


def test_a_message_holds_no_secret_in_any_form() -> None:
    secret = 'p@ss "word"'
    text = 'p@ss "word" p%40ss%20%22word%22 p@ss \\"word\\" cEBzcyAid29yZCI= end'
    assert scrub(text, [secret, ""]) == "[secret] [secret] [secret] [secret] end"
    assert "abcdef" not in scrub("got abcdef", ["abcdefgh"], truncated=True)


def test_a_message_is_one_bounded_line() -> None:
    assert one_line("a\n\x1b[31m b\t") == "a [31m b"
    assert len(one_line("x" * 1000)) == 512
    assert one_line("x" * 512) == "x" * 512
