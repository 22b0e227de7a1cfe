"""Kopf, without the 37 MB that it takes for three isinstance checks.

Kopf imports the model classes of kubernetes_asyncio, if that is installed, to recognise them as
owners of objects. No handler of ours has owners.
"""

from __future__ import annotations

import sys

_LIBRARY = "kubernetes_asyncio"

if _LIBRARY not in sys.modules:
    sys.modules[_LIBRARY] = None  # type: ignore[assignment] # what makes an import fail
    import kopf
    from kopf._core.engines.peering import Identity

    del sys.modules[_LIBRARY]
else:
    import kopf
    from kopf._core.engines.peering import Identity

__all__ = ["Identity", "kopf"]
