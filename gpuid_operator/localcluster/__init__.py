"""The local control plane: a real API server with simulated GPU nodes, without containers.

The demo, the tests and the benchmarks stand on it. `LocalCluster` is what they use.
"""

from __future__ import annotations

from gpuid_operator.localcluster.cluster import LocalCluster
from gpuid_operator.localcluster.errors import (
    ApiError,
    BuildError,
    LocalClusterError,
    RealNodeUnavailable,
    ServerError,
)
from gpuid_operator.localcluster.lifecycle import down

__all__ = [
    "ApiError",
    "BuildError",
    "LocalCluster",
    "LocalClusterError",
    "RealNodeUnavailable",
    "ServerError",
    "down",
]
