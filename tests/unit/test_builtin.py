"""The built-in policy: complete, valid as an API object, and what a gpuid Deployment asks for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.api.meta import ENVIRONMENT_SECRET
from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.api.sinks import SecretKeyRef, Sink
from gpuid_operator.operator.builtin import builtin_policy
from gpuid_operator.operator.settings import Settings


def sink(environ: dict[str, str]) -> Sink:
    policy = builtin_policy(Settings.load(environ))
    assert policy.sinks is not None
    [only] = policy.sinks
    assert only.sightings
    assert PolicySpec.model_validate(policy.to_json()) == policy
    return only


def reference(variable: str) -> SecretKeyRef:
    return SecretKeyRef(name=ENVIRONMENT_SECRET, key=variable)


def test_every_field_is_filled() -> None:
    policy = builtin_policy(Settings.load({"RESYNC": "1h", "SIGHTING_INTERVAL": "168h"}))
    empty = {name for name, value in policy if value is None}
    assert empty == {"expect", "node_selector"}
    assert policy.read_interval == timedelta(hours=1)
    assert policy.sighting_interval == timedelta(hours=168)
    assert policy.retention == timedelta(hours=720)
    assert policy.node_labels is True
    assert policy.suspend is False
    assert policy.checks == []


def test_the_intervals_are_a_day() -> None:
    policy = builtin_policy(Settings.load({}))
    assert (policy.read_interval, policy.sighting_interval) == (timedelta(hours=24),) * 2


def test_suspend() -> None:
    assert builtin_policy(Settings.load({"SUSPEND": "true"})).suspend is True


def test_stdout_without_any_variable() -> None:
    found = sink({})
    assert (found.name, found.type) == ("stdout", "stdout")


@pytest.mark.parametrize(
    ("url", "insecure"),
    [("https://api.example.com/x", False), ("http://svc.cluster.local/x", True)],
)
def test_http(url: str, insecure: bool) -> None:
    found = sink(
        {
            "EXPORTER_TYPE": "http",
            "HTTP_ENDPOINT": url,
            "HTTP_TIMEOUT": "5s",
            "HTTP_AUTH_TOKEN": "secret-token",
        }
    )
    assert found.name == "http"
    assert found.http is not None
    assert found.http.url == url
    assert found.http.insecure is insecure
    assert found.http.timeout == timedelta(seconds=5)
    assert found.http.token_secret_ref == reference("HTTP_AUTH_TOKEN")
    assert "secret-token" not in found.model_dump_json()


def test_http_without_a_token() -> None:
    found = sink({"EXPORTER_TYPE": "http", "HTTP_ENDPOINT": "https://host/"})
    assert found.http is not None
    assert found.http.token_secret_ref is None


def test_postgres() -> None:
    found = sink(
        {
            "EXPORTER_TYPE": "postgres",
            "POSTGRES_PORT": "6432",
            "POSTGRES_DB": "gpuid",
            "POSTGRES_HOST": "db",
            "POSTGRES_USER": "writer",
            "POSTGRES_PASSWORD": "secret-password",
        }
    )
    assert found.name == "postgres"
    assert found.postgres is not None
    assert (found.postgres.host, found.postgres.port) == ("db", 6432)
    assert (found.postgres.database, found.postgres.table) == ("gpuid", "gpu")
    assert found.postgres.user_secret_ref == reference("POSTGRES_USER")
    assert found.postgres.password_secret_ref == reference("POSTGRES_PASSWORD")
    assert found.postgres.ssl_mode == "require"
    assert found.postgres.auto_migrate is False
    assert "secret-password" not in found.model_dump_json()


S3 = {"EXPORTER_TYPE": "s3", "S3_BUCKET": "gpuids"}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret-key"}


def test_s3_with_keys() -> None:
    found = sink({**S3, **KEYS, "S3_PREFIX": "/serial-numbers/", "AWS_REGION": "eu-west-1"})
    assert found.name == "s3"
    assert found.s3 is not None
    assert found.s3.prefix == "serial-numbers"
    assert found.s3.region == "us-east-1"
    assert found.s3.partition == "year=%Y/month=%m/day=%d/hour=%H"
    assert found.s3.endpoint is None
    assert found.s3.credentials_secret_ref is not None
    assert found.s3.credentials_secret_ref.name == ENVIRONMENT_SECRET
    assert "secret-key" not in found.model_dump_json()


def test_s3_with_the_clouds_own_credentials() -> None:
    found = sink(S3)
    assert found.s3 is not None
    assert found.s3.credentials_secret_ref is None
    assert found.s3.insecure is False


def test_s3_at_an_address_of_its_own() -> None:
    general = {"AWS_ENDPOINT_URL": "https://all.example.com"}
    found = sink({**S3, **general, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:7070"})
    assert found.s3 is not None
    assert (found.s3.endpoint, found.s3.insecure) == ("http://127.0.0.1:7070", True)
    found = sink({**S3, **general})
    assert found.s3 is not None
    assert (found.s3.endpoint, found.s3.insecure) == ("https://all.example.com", False)
