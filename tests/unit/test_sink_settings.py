"""Settings of sinks that the S3 client cannot bear are refused before it gets them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gpuid_operator.api.sinks import AzureSink, HTTPSink, S3Sink


@pytest.mark.parametrize(
    "fields",
    [
        *({"bucket": name} for name in ("a b", "a\n", "a\x00b", "<a>", "a?b", "a#b", "a/b", "..")),
        *(
            {"bucket": "b", "endpoint": url}
            for url in (
                *("https://a{b", "https://a\x01b", "https://:9", "https://bücher.example"),
                *("https://[::1", "https://a:b", "https://a b", "https://user@host"),
            )
        ),
    ],
)
def test_a_bucket_or_endpoint_that_would_make_its_client_panic(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        S3Sink.model_validate(fields)


@pytest.mark.parametrize("bucket", ["fleet-inventory", "a.b_C-9", "x" * 255])
@pytest.mark.parametrize(
    "endpoint", [None, "http://127.0.0.1:9000/", "https://s3.example.com", "https://[::1]:9000"]
)
def test_buckets_and_endpoints_of_servers_other_than_aws(bucket: str, endpoint: str | None) -> None:
    S3Sink(bucket=bucket, endpoint=endpoint)


@pytest.mark.parametrize("space", ["\x0b", "\x85", "\xa0", "\u2028"])
def test_a_url_that_the_api_server_accepts_can_be_parsed(space: str) -> None:
    r"""`\s` is ASCII there. The sink refuses the host in its own words."""
    HTTPSink(url=f"https://a{space}b/{space}")


@pytest.mark.parametrize(
    "fields",
    [
        *({"account": name} for name in ("fl", "Fleet", "fleet-1", "a.b", "fleet/x", "a" * 25)),
        *({"container": name} for name in ("a", "A-b", "-ab", "ab-", "a--b", "a/b", "a" * 64)),
    ],
)
def test_a_name_that_azure_does_not_have(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        AzureSink.model_validate({"account": "fleet", "container": "gpus", **fields})


def test_names_of_azure() -> None:
    AzureSink(account="fleet1", container="gpu-inventory-2")
