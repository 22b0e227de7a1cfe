"""The admission policies of deployment/policy, with the source and key of a release."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Final

from release.oci import Document
from release.project import ROOT
from release.signer import Signer

POLICIES: Final = ROOT / "deployment" / "policy"
FOLDER: Final = "policy"
NAMES: Final = ("slsa-attestation", "sbom-attestation")
SOURCE: Final = "https://github.com/gpuid/gpuid-operator"
_KEY: Final = re.compile(
    r"^( +)-----BEGIN PUBLIC KEY-----.+-----END PUBLIC KEY-----\n", re.MULTILINE | re.DOTALL
)


def write_policies(dist: Path, signer: Signer) -> None:
    """Write the admission policies with the release's source and key to `dist/policy`."""
    release: Document = json.loads((dist / "release.json").read_text())
    pem = signer.public_key()
    folder = dist / FOLDER
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        text = (POLICIES / f"{name}{'' if pem else '-keyless'}.yaml").read_text()
        for dot in (".", r"\."):  # literally, and in a regular expression
            text = text.replace(SOURCE.replace(".", dot), release["source"].replace(".", dot))
        if pem:
            text = _KEY.sub(lambda found: textwrap.indent(pem, found[1]), text)
        (folder / f"{name}.yaml").write_text(text)
