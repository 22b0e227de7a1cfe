"""The settings of the sink `azure`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.objects import Endpoint, ObjectSink
from gpuid_operator.api.sinks.settings import SecretRef

_ACCOUNT_PATTERN: Final = r"^[a-z0-9]{3,24}$"
_CONTAINER_PATTERN: Final = r"^[a-z0-9](-?[a-z0-9])*$"


class AzureSink(ObjectSink):
    """Puts records as blobs into a container of Azure Blob Storage."""

    PATTERNS: ClassVar = ObjectSink.PATTERNS | {
        _ACCOUNT_PATTERN: "must be the name of a storage account: 3 to 24 lower-case letters and"
        " digits",
        _CONTAINER_PATTERN: "must be the name of a container: lower-case letters, digits and single"
        " hyphens",
    }

    account: Annotated[str, Field(min_length=3, max_length=24, pattern=_ACCOUNT_PATTERN)]
    """Name of the storage account."""
    container: Annotated[str, Field(min_length=3, max_length=63, pattern=_CONTAINER_PATTERN)]
    """Name of the container."""
    endpoint: Endpoint | None = None
    """URL of the Blob service (default https://ACCOUNT.blob.core.windows.net); https unless
    `insecure` is true. If its host does not begin with the name of the account, the account is
    part of the path."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_ACCOUNT_KEY (default: Workload Identity,
    or a managed identity of the node)."""
