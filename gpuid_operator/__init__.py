"""gpuid-operator: which physical GPU sits behind which Kubernetes node, now and before."""

from __future__ import annotations

__version__ = "0.1.0"
