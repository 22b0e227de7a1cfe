"""kafka: produces one message per record to a topic, with the name of the node as key."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import KafkaFormat, KafkaSink, KafkaTLS, SecretKeyRef, SecretRef
from gpuid_operator.sinks.base import SecretMissing
from gpuid_operator.sinks.cloudevents import cloud_event
from gpuid_operator.sinks.kafka_access import TLS, Access, Login, LoginRefused
from gpuid_operator.sinks.kafka_batches import Message
from gpuid_operator.sinks.kafka_producer import Address, Producer
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import SecretsInUse, get_logger

_log = get_logger(__name__)


def open_sink(spec: KafkaSink, opening: SinkOpening) -> KafkaSender:
    return KafkaSender(spec, secrets=opening.secrets)


class KafkaSender:
    """Sends batches to one topic. It asks for the secrets with each use of a broker, to use new
    values at once."""

    def __init__(self, spec: KafkaSink, *, secrets: SecretSource) -> None:
        self._spec = spec
        self._secrets = secrets
        self._in_use = SecretsInUse()
        self._last = Access(tls=None, login=None)
        self._producer = Producer(
            [_address(broker) for broker in spec.brokers], spec.topic, access=self._access
        )

    async def send(self, records: Sequence[Record]) -> None:
        as_event = self._spec.format is KafkaFormat.CLOUDEVENTS
        try:
            await self._producer.produce([_message(record, as_event) for record in records])
        except LoginRefused:
            self._secrets.invalidate()
            raise
        _log.info("export completed", topic=self._spec.topic, records=len(records))

    async def close(self) -> None:
        self._producer.close()
        self._in_use.set()

    async def _access(self, host: str) -> Access:
        """How to connect to a broker, which may be one that another broker named."""
        tls, login = None, None
        if not self._spec.insecure:
            settings = self._spec.tls or KafkaTLS()
            certificate, key = await self._certificate(settings.cert_secret_ref, host)
            authorities = await self._secret(settings.ca_secret_ref, host)
            tls = TLS(authorities=authorities, certificate=certificate, key=key)
        if self._spec.sasl:
            login = Login(
                mechanism=self._spec.sasl.mechanism,
                user=await self._secret(self._spec.sasl.user_secret_ref, host) or "",
                password=await self._secret(self._spec.sasl.password_secret_ref, host) or "",
            )
        secrets = (login and login.password, tls and tls.key)
        self._in_use.set(*(secret for secret in secrets if secret))
        access = Access(tls=tls, login=login)
        if access != self._last:
            self._last = access
        return self._last  # with the context for TLS, which all brokers share

    async def _secret(self, ref: SecretKeyRef | None, host: str) -> str | None:
        return None if ref is None else await self._secrets.get(ref, host=host)

    async def _certificate(self, ref: SecretRef | None, host: str) -> tuple[str | None, str | None]:
        """The client certificate and its key."""
        if ref is None:
            return None, None
        values = await self._secrets.get_all(ref, host=host)
        for name in ("tls.crt", "tls.key"):
            if name not in values:
                raise SecretMissing(f"Secret {ref.name} has no key {name}: add it")
        return values["tls.crt"], values["tls.key"]


def _address(broker: str) -> Address:
    host, _, port = broker.rpartition(":")
    if not 0 < int(port) < 65536:
        raise ValueError(f"{broker} has no port between 1 and 65535")
    return Address(host.strip("[]"), int(port))


def _message(record: Record, as_event: bool) -> Message:
    headers = [("id", record.id.encode())]
    value = record.to_json()
    if as_event:
        value = cloud_event(record)
        headers.append(("content-type", b"application/cloudevents+json"))
    return Message(key=record.node.encode(), value=orjson.dumps(value), headers=headers)
