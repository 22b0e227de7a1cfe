"""`gpuid-operator crds`: the CustomResourceDefinitions as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from gpuid_operator.api.crd import crd_manifests


def crd_files() -> dict[str, str]:
    """The YAML text of each CustomResourceDefinition under the name of its file, in the order in
    which to apply them."""
    return {_file_name(manifest): _yaml(manifest) for manifest in crd_manifests()}


def _file_name(manifest: dict[str, Any]) -> str:
    spec = manifest["spec"]
    return f"{spec['group']}_{spec['names']['plural']}.yaml"


def _yaml(manifest: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100)
    return text


@click.command()
@click.option(
    "--write",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write one file per CustomResourceDefinition into this directory.",
)
def crds(directory: Path | None) -> None:
    """Print the CustomResourceDefinitions, ready for `kubectl apply -f -`."""
    files = crd_files()
    if directory is None:
        click.echo("---\n".join(files.values()), nl=False)
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
