"""The built-in policy: the settings of a node that no GPUInventoryPolicy selects."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from gpuid_operator.api.meta import ENVIRONMENT_SECRET
from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.api.sinks import (
    HTTPFormat,
    HTTPSink,
    ObjectFormat,
    PostgresSink,
    Records,
    S3Sink,
    SecretKeyRef,
    SecretRef,
    Sink,
    StdoutSink,
)
from gpuid_operator.operator.settings import ExporterType, Settings

RETENTION: Final = timedelta(hours=720)


def builtin_policy(settings: Settings) -> PolicySpec:
    """The policy of the environment, with every field set. Its one sink is named by its type.

    It holds no credentials: it refers to the environment as to a Secret of that name.
    """
    return PolicySpec(
        priority=0,
        suspend=settings.suspend,
        read_interval=settings.resync,
        sighting_interval=settings.sighting_interval,
        node_labels=True,
        retention=RETENTION,
        sinks=[_sink(settings)],
        checks=[],
    )


def _sink(settings: Settings) -> Sink:
    name, records = settings.exporter_type.value, Records.SIGHTINGS
    match settings.exporter_type:
        case ExporterType.STDOUT:
            return Sink(name=name, records=records, stdout=StdoutSink())
        case ExporterType.HTTP:
            return Sink(name=name, records=records, http=_http(settings))
        case ExporterType.POSTGRES:
            return Sink(name=name, records=records, postgres=_postgres(settings))
        case ExporterType.S3:
            return Sink(name=name, records=records, s3=_s3(settings))


def _http(settings: Settings) -> HTTPSink:
    url = settings.http_endpoint or ""
    return HTTPSink(
        url=url,
        token_secret_ref=_reference("HTTP_AUTH_TOKEN") if settings.http_auth_token else None,
        format=HTTPFormat.JSON,
        timeout=settings.http_timeout,
        insecure=url.startswith("http://"),
    )


def _postgres(settings: Settings) -> PostgresSink:
    return PostgresSink(
        host=settings.postgres_host or "",
        port=settings.postgres_port,
        database=settings.postgres_db or "",
        ssl_mode=settings.postgres_sslmode,
        user_secret_ref=_reference("POSTGRES_USER"),
        password_secret_ref=_reference("POSTGRES_PASSWORD"),
        table=settings.postgres_table,
        auto_migrate=settings.postgres_auto_migrate,
    )


def _s3(settings: Settings) -> S3Sink:
    endpoint = settings.aws_endpoint_url_s3 or settings.aws_endpoint_url
    has_key = settings.aws_access_key_id is not None
    return S3Sink(
        bucket=settings.s3_bucket or "",
        prefix=settings.s3_prefix,
        region=settings.s3_region,
        endpoint=endpoint,
        credentials_secret_ref=SecretRef(name=ENVIRONMENT_SECRET) if has_key else None,
        format=ObjectFormat.CSV,
        partition=settings.s3_partition_pattern,
        insecure=endpoint is not None and endpoint.startswith("http://"),
    )


def _reference(variable: str) -> SecretKeyRef:
    return SecretKeyRef(name=ENVIRONMENT_SECRET, key=variable)
