"""Generate files of the chart and of deployment/: `make chart`.

The CRDs, from the models, as templates of the chart and as a kustomization; the annotations in its
Chart.yaml; the dashboards; the chart's copies of dashboards and rules. The table of values in the
chart's README and the descriptions in its schema, from the comments (`# -- …`) in values.yaml. The
presets, from `gpuid_operator/plan/presets.py`, as the chart's files/presets.yaml and the table in
docs/presets.md. The pages in docs/reference. The demo's copies of deployment/simulated. With
`--check` the script writes nothing, and the exit code is 1 if a file is stale.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from gpuid_operator.cli.crds import crd_files
from gpuid_operator.plan.presets import PRESETS, SHARED_NAMESPACES

ROOT: Final = Path(__file__).parent.parent
CHART: Final = ROOT / "charts" / "gpuid-operator"
RULES: Final = ROOT / "deployment" / "monitoring" / "rules.yaml"
CRD_KUSTOMIZATION: Final = ROOT / "deployment" / "crds"
SIMULATED: Final = ROOT / "deployment" / "simulated"
DEMO: Final = ROOT / "gpuid_operator" / "cli" / "demo" / "simulated"

_KEY: Final = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):")
_SHORT: Final = 60
_SIMULATED_FILES: Final = {
    "daemonset.yaml": "daemonset.yaml",
    "simulated_gpus.py": "simulated_gpus.py.txt",  # a file for pods, not a module of the package
}


def generated() -> dict[Path, str]:
    """The content of every generated file, by path."""
    files = {}
    for name, text in crd_files().items():
        files[CHART / "templates" / "crds" / name] = _template(text)
        files[CRD_KUSTOMIZATION / name] = text
    files |= _by_script("reference.py") | _by_script("chart_metadata.py")
    for path, text in _by_script("dashboards.py").items():
        files[path] = files[CHART / "files" / "dashboards" / path.name] = text
    for name, copy in _SIMULATED_FILES.items():
        files[DEMO / copy] = (SIMULATED / name).read_text(encoding="utf-8")
    files[CHART / "files" / "rules.yaml"] = RULES.read_text(encoding="utf-8")
    readme = CHART / "README.md"
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    files[readme] = _with_table(readme.read_text(encoding="utf-8"), table(values), "values")
    schema = CHART / "values.schema.json"
    files[schema] = _with_descriptions(schema.read_text(encoding="utf-8"), values)
    files[CHART / "files" / "presets.yaml"] = _presets_file()
    page = ROOT / "docs" / "presets.md"
    files[page] = _with_table(page.read_text(encoding="utf-8"), presets_table(), "presets")
    return files


def _by_script(name: str) -> dict[Path, str]:
    """What another script of this folder generates."""
    files: dict[Path, str] = runpy.run_path(str(ROOT / "scripts" / name))["generated"]()
    return files


def _presets_file() -> str:
    """Where the chart grants rights for a preset, and by which pods it recognizes one."""
    content = {
        "order": list(PRESETS),
        "shared": sorted(SHARED_NAMESPACES),
        "presets": {
            name: [{"namespaces": list(pods.namespaces), "label": pods.label} for pods in rows]
            for name, rows in PRESETS.items()
        },
    }
    head = "# Generated from gpuid_operator/plan/presets.py by `make chart`.\n"
    return head + yaml.safe_dump(content, sort_keys=False)


def presets_table() -> str:
    """The presets as rows of Markdown, in the order of `auto`."""
    rows = ["| Preset | Namespaces | Pods | Container | nvidia-smi |", "|---|---|---|---|---|"]
    for name, pods in PRESETS.items():
        for one in pods:
            script = one.command[0] == "sh"
            words = " ".join(one.command).removesuffix(" -q -x")
            command = "under `/driver-root` or `/host`" if script else f"`{words}`"
            places = ", ".join(f"`{place}`" for place in one.namespaces)
            rows.append(f"| `{name}` | {places} | `{one.label}` | `{one.container}` | {command} |")
    return "\n".join(rows) + "\n"


def _template(text: str) -> str:
    """A CRD that Helm installs and upgrades, and never deletes."""
    head, rest = re.sub(r"{{|}}", r'{{ "\g<0>" }}', text).split("metadata:\n", 1)
    return (
        "{{- if .Values.crds.install }}\n"
        f"{head}metadata:\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  labels:\n"
        '    {{- include "gpuid-operator.commonLabels" . | nindent 4 }}\n'
        f"{rest}"
        "{{- end }}\n"
    )


def table(values: str) -> str:
    """The values as rows of Markdown: key, default, description."""
    defaults = yaml.safe_load(values)
    rows = ["| Value | Default | Description |", "|---|---|---|"]
    for path, words in _described(values):
        default: Any = defaults
        for part in path:
            default = default[part]
        shown = json.dumps(default, ensure_ascii=False)
        shown = f"`{shown}`" if len(shown) <= _SHORT else "see values.yaml"
        rows.append(f"| `{'.'.join(path)}` | {shown} | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _with_descriptions(schema: str, values: str) -> str:
    """The schema, in which each value has the words of its comment."""
    root: Any = json.loads(schema)
    for path, words in _described(values):
        rule = root
        for part in path:
            rule = rule["properties"][part]
        rule["description"] = words
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def _described(values: str) -> Iterator[tuple[list[str], str]]:
    """Every key whose comment begins with `--`, and that comment as one line."""
    path: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                yield path, " ".join(comment)
            comment = []


def _with_table(page: str, rows: str, name: str) -> str:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{rows}{end}{tail}"


def main(arguments: list[str]) -> int:
    """Write or, with `--check`, compare."""
    stale = [
        path
        for path, text in generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make chart`")  # noqa: T201
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generated()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
