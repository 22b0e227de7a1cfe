"""The settings of the sink `s3`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gpuid_operator.api.sinks.objects import BucketName, Endpoint, ObjectSink
from gpuid_operator.api.sinks.settings import SecretRef


class S3Sink(ObjectSink):
    """Puts records as objects into an S3-compatible bucket."""

    bucket: BucketName
    """Name of the bucket."""
    region: Annotated[str, Field(max_length=63)] | None = None
    """Region of the bucket (default: the region of the environment, or us-east-1)."""
    endpoint: Endpoint | None = None
    """URL of an S3-compatible server instead of AWS; https unless `insecure` is true."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, optionally, AWS_SESSION_TOKEN
    (default: the credential chain of the cloud: IRSA, Pod Identity, instance role)."""
