"""The settings of the sink `kafka`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.settings import SecretKeyRef, SecretRef, SinkSettings
from gpuid_operator.api.values import Model

_BROKER_PATTERN: Final = r"^([-A-Za-z0-9._]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"
_TOPIC_PATTERN: Final = r"^[-A-Za-z0-9._]+$"


class KafkaFormat(StrEnum):
    JSON = "json"
    CLOUDEVENTS = "cloudevents"


class SASLMechanism(StrEnum):
    """Names as in Kafka's sasl.mechanism."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class KafkaSASL(Model):
    """How to log in."""

    mechanism: SASLMechanism
    """Mechanism that the listener of the brokers has enabled."""
    user_secret_ref: SecretKeyRef
    """Secret with the user name."""
    password_secret_ref: SecretKeyRef
    """Secret with the password."""


class KafkaTLS(Model):
    """Whom to trust, and the client certificate."""

    ca_secret_ref: SecretKeyRef | None = None
    """Secret with a PEM bundle of certificate authorities to trust instead of those of the
    system."""
    cert_secret_ref: SecretRef | None = None
    """Secret of type kubernetes.io/tls with the client certificate: `tls.crt` and `tls.key`."""


class KafkaSink(SinkSettings):
    """Produces one message per record to a topic, with the name of the node as key."""

    RULES: ClassVar = (
        {
            "rule": "!has(self.tls) || !has(self.insecure) || !self.insecure",
            "message": "insecure: true sends in clear text; remove it to use TLS, or remove tls",
        },
    )
    PATTERNS: ClassVar = {
        _BROKER_PATTERN: "must be host:port, such as kafka-1.example.com:9093",
        _TOPIC_PATTERN: "must be the name of a topic: letters, digits, dots, underscores and"
        " hyphens",
    }

    brokers: Annotated[
        list[Annotated[str, Field(min_length=3, max_length=261, pattern=_BROKER_PATTERN)]],
        Field(min_length=1, max_length=16),
    ]
    """Brokers to ask for the others, as host:port. The operator connects to each broker under the
    host that the brokers advertise."""
    topic: Annotated[str, Field(min_length=1, max_length=249, pattern=_TOPIC_PATTERN)]
    """Name of the topic, which must exist."""
    sasl: KafkaSASL | None = None
    """How to log in (default: not at all, or with the client certificate)."""
    tls: KafkaTLS | None = None
    """Whom to trust, and the client certificate (default: the authorities of the system, and no
    certificate)."""
    format: KafkaFormat | None = None
    """Format of the value: `json`, the record (default), or `cloudevents`, a CloudEvent 1.0 in
    structured mode."""
    insecure: bool | None = None
    """Whether to send in clear text, without TLS (default false)."""
