"""The settings of the sink `gcs`."""

from __future__ import annotations

from gpuid_operator.api.sinks.objects import BucketName, Endpoint, ObjectSink
from gpuid_operator.api.sinks.settings import SecretRef


class GCSSink(ObjectSink):
    """Puts records as objects into a bucket of Google Cloud Storage."""

    bucket: BucketName
    """Name of the bucket."""
    endpoint: Endpoint | None = None
    """URL of a server with the JSON API of Cloud Storage (default https://storage.googleapis.com);
    https unless `insecure` is true."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with GOOGLE_SERVICE_ACCOUNT_KEY, the JSON key of a service account (default: Workload
    Identity Federation for GKE, or the service account of the node)."""
