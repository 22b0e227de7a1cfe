"""Which addresses belong to the object store of a cloud, and so may receive the operator's own
credentials; which names can be part of an address."""

from __future__ import annotations

import re
from typing import Final

_REGION: Final = re.compile(r"[a-z0-9-]+")
# Not all of amazonaws.com: anyone can have a host there, such as a virtual machine
# (compute.amazonaws.com) or a load balancer (elb.amazonaws.com).
_AWS: Final = re.compile(
    r"https?://"
    r"(?:[a-z0-9-]+\.)*"  # an access point or a VPC endpoint
    r"s3(?:-[a-z0-9-]+)?\."  # s3, s3-fips, s3-accelerate, s3-us-west-2
    r"(?:dualstack\.)?"
    r"(?:[a-z]{2}(?:-[a-z]+)+-[0-9]+\.)?"
    r"(?:vpce\.)?"
    r"(?:amazonaws\.com|amazonaws\.com\.cn|api\.aws)"
    r"(?::443|:80)?/?",
    re.IGNORECASE,
)
# A bearer token is worth more than the signature of one request: only over TLS.
_GOOGLE: Final = re.compile(
    r"https://"
    r"(?:"
    r"storage(?:\.[a-z0-9-]+\.rep)?|"  # regional endpoints have .REGION.rep
    r"storage-[a-z0-9-]+\.p|"  # Private Service Connect
    r"private|restricted"  # Private Google Access
    r")\.googleapis\.com(?::443)?/?",
    re.IGNORECASE,
)
_AZURE: Final = re.compile(
    r"https://"
    r"[a-z0-9]{3,24}(?:-secondary)?\."
    r"(?:privatelink\.)?"
    r"(?:z[0-9]{1,2}\.blob\.storage\.azure\.net|"  # accounts with DNS zone endpoints
    r"blob\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn))"
    r"(?::443)?/?",
    re.IGNORECASE,
)


def is_aws_endpoint(endpoint: str) -> bool:
    """Whether a URL is an endpoint of S3 at AWS.

    Matches the whole text instead of parsing it: parsers of URLs disagree about where the host of a
    malformed URL ends.
    """
    return _AWS.fullmatch(endpoint) is not None


def is_google_endpoint(endpoint: str) -> bool:
    """Whether a URL is an endpoint of Cloud Storage at Google, over TLS."""
    return _GOOGLE.fullmatch(endpoint) is not None


def is_azure_endpoint(endpoint: str) -> bool:
    """Whether a URL is an endpoint of Blob Storage at Azure, over TLS."""
    return _AZURE.fullmatch(endpoint) is not None


def is_region(name: str) -> bool:
    """Whether a name can be a region. Other characters could end the host name that it is part
    of."""
    return _REGION.fullmatch(name) is not None
