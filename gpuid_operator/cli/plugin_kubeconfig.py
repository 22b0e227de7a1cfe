"""The names of the contexts in the kubeconfig of the user; `kube` reads everything else in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml


@dataclass(frozen=True, slots=True)
class KubeconfigNames:
    """The current context and all contexts."""

    current: str
    contexts: tuple[str, ...]

    @classmethod
    def read(cls, kubeconfig: str | None) -> Self:
        """From the file given, else KUBECONFIG, else ~/.kube/config; the first file that names a
        current context wins, as with kubectl. Files that cannot be read count as empty."""
        paths = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        current, contexts = "", dict[str, None]()
        for path in filter(None, paths.split(os.pathsep)):
            content = _load(Path(path).expanduser())
            current = current or str(content.get("current-context") or "")
            entries = content.get("contexts")
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and entry.get("name"):
                    contexts[str(entry["name"])] = None
        return cls(current=current or "in-cluster", contexts=tuple(contexts))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
