"""The CRDs, without which the operator can do nothing."""

from __future__ import annotations

import asyncio
from typing import Final

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.discovery import missing_kinds
from gpuid_operator.operator.health import Health
from gpuid_operator.operator.retry import until_success
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_PERIOD: Final = 2.0
_INSTALL: Final = "install them with `kubectl apply -f crds/` or the chart"


async def missing_crds(client: KubeClient, health: Health) -> frozenset[str]:
    """Plurals that the API server does not serve, once it can be asked."""
    return await until_success(
        "failed to look up the CRDs", lambda: missing_kinds(client), health=health
    )


async def wait_for_crds(client: KubeClient, health: Health) -> None:
    """Return when the API server serves both kinds. Logs each change of what is missing."""
    logged: frozenset[str] = frozenset()
    while missing := await missing_crds(client, health):
        names = ", ".join(sorted(missing))
        health.set_unready(f"waiting for the CRDs: {names} not served; {_INSTALL}")
        if missing != logged:
            logged = missing
            _log.warning(f"waiting for the CRDs; {_INSTALL}", missing=names)
        await asyncio.sleep(_PERIOD)
