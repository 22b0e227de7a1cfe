"""Generate the annotations of Chart.yaml, which Artifact Hub shows; `make chart` runs it.

The CRDs come from the models, the examples from the documentation, the image from the chart's
values, and the changes from those lines of CHANGELOG.md that begin with the chart. The part
before `annotations:` is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from gpuid_operator.api.crd import crd_manifests
from release.debian import ARCHITECTURES

ROOT: Final = Path(__file__).parent.parent
CHART: Final = ROOT / "charts" / "gpuid-operator"
EXAMPLES: Final = (
    ROOT / "docs" / "gitops" / "policies" / "fleet.yaml",
    ROOT / "docs" / "gitops" / "policies" / "lab.yaml",
    ROOT / "docs" / "parts.md",
)
"""Manifests, and a page whose first manifest counts."""
LINKS: Final = {
    "Installation": "docs/install.md",
    "Sinks": "docs/sinks.md",
    "Verification of image and chart": "docs/verify.md",
    "Changelog": "CHANGELOG.md",
    "Security": "SECURITY.md",
}

_MARK: Final = "annotations:\n"
_OF_THE_CHART: Final = re.compile(r"- (?:Chart|Helm chart|The chart)\b")


def generated() -> dict[Path, str]:
    """The content of Chart.yaml, by path."""
    path = CHART / "Chart.yaml"
    head, _, _ = path.read_text(encoding="utf-8").partition(_MARK)
    return {path: head + _MARK + "".join(_annotations(yaml.safe_load(head)))}


def _annotations(chart: dict[str, Any]) -> Iterator[str]:
    yield "  artifacthub.io/category: monitoring-logging\n"
    yield "  artifacthub.io/license: Apache-2.0\n"
    yield '  artifacthub.io/operator: "true"\n'
    yield _annotation("links", [_link(chart, *link) for link in LINKS.items()])
    yield _annotation("images", [_image(chart)])
    yield _annotation("crds", [_crd(manifest) for manifest in crd_manifests()])
    yield _annotation("crdsExamples", [_example(path) for path in EXAMPLES])
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    yield _annotation("changes", changes(log, chart["version"]))


def _annotation(name: str, content: list[Any]) -> str:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return f"  artifacthub.io/{name}: |\n" + re.sub(r"^(?=.)", "    ", text, flags=re.MULTILINE)


def _link(chart: dict[str, Any], name: str, page: str) -> dict[str, str]:
    return {"name": name, "url": f"{chart['home']}/blob/main/{page}"}


def _image(chart: dict[str, Any]) -> dict[str, Any]:
    image = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["image"]
    return {
        "name": chart["name"],
        "image": f"{image['repository']}:{chart['appVersion']}",
        # The name has no registry, so that a scan would find an image of somebody else.
        "whitelisted": True,
        "platforms": [f"linux/{architecture}" for architecture in ARCHITECTURES],
    }


def _crd(manifest: dict[str, Any]) -> dict[str, str]:
    kind = manifest["spec"]["names"]["kind"]
    (version,) = manifest["spec"]["versions"]
    return {
        "kind": kind,
        "version": version["name"],
        "name": manifest["metadata"]["name"],
        "displayName": re.sub(r"(?<=[a-zU])(?=[A-Z][a-z])", " ", kind),
        "description": version["schema"]["openAPIV3Schema"]["description"],
    }


def _example(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.findall(r"```yaml\n(apiVersion: .*?)```", text, re.DOTALL)[0]
    return yaml.safe_load(text)


def changes(log: str, version: str) -> list[dict[str, str]]:
    """The changes of the chart in a version, in plain text."""
    section = log.partition(f"\n## [{version}]")[2].partition("\n## ")[0]
    found = []
    for part in section.split("\n### ")[1:]:
        kind, _, lines = part.partition("\n")
        for line in lines.splitlines():
            if _OF_THE_CHART.match(line):
                plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line.removeprefix("- "))
                found.append({"kind": kind.lower(), "description": plain.replace("`", "")})
    return found
