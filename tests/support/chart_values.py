"""Values of the chart for tests, and the settings that result from them."""

from __future__ import annotations

from gpuid_operator.operator.settings import Settings
from tests.support.manifests import (
    Manifest,
    environment,
)

EVERYTHING: Manifest = {
    "clusterName": "prod",
    "reader": {"enabled": True},
    "checks": {
        "enabled": True,
        "restarts": True,
        "admission": {"enabled": True, "users": ["alice"]},
    },
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
    "tolerations": [{"operator": "Exists"}],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/extra"}],
}

SINKS: list[Manifest] = [
    {"type": "stdout"},
    {
        "type": "http",
        "http": {
            "endpoint": "https://example.com/records",
            "tokenSecretRef": {"name": "token", "key": "token"},
        },
    },
    {
        "type": "postgres",
        "postgres": {
            "host": "db.example.com",
            "database": "gpuid",
            "userSecretRef": {"name": "db", "key": "username"},
            "passwordSecretRef": {"name": "db", "key": "password"},
        },
    },
    {"type": "s3", "s3": {"bucket": "gpus", "prefix": "p", "credentialsSecret": "s3"}},
    {"type": "s3", "s3": {"bucket": "gpus", "endpoint": "https://s3.example.com"}},
]

ANNOTATIONS = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8080",
    "prometheus.io/path": "/metrics",
}
"""Those of the Service, as gpuid has them."""


def load(objects: list[Manifest]) -> Settings:
    """The settings that the operator reads from a rendered environment."""
    values = {
        name: value if isinstance(value, str) else "from-elsewhere"
        for name, value in environment(objects).items()
    }
    return Settings.load(values)
