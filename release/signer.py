"""Signs a release with cosign.

Each attestation of an image is published in both formats of cosign: the bundle, and the format that
the Sigstore policy controller reads.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from release import tools
from release.image import Progress

PROVENANCE: Final = "slsaprovenance1"
SBOM: Final = "spdxjson"
"""cosign's names for the types of attestations."""

_NO_SERVICES: Final = ("fulcio", "oidc", "rekor", "tsa")


@dataclass(frozen=True)
class Signer:
    """The signing party: a key of cosign (a file, or an address such as `awskms://…`), used
    offline; or, with None, the identity of a hosted CI, with entries in Sigstore's public log."""

    key: str | None
    password: str = field(default="", repr=False)

    @classmethod
    def choose(cls, key: str | None, dist: Path, progress: Progress) -> Signer:
        """The given key; else the identity of the CI if there is one; else a new key in `dist`."""
        password = os.environ.get("COSIGN_PASSWORD")
        if key:
            if password is None and Path(key).is_file() and sys.stdin.isatty():
                password = getpass.getpass(f"Password of {key}: ")
            return cls(key, password or "")
        if os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
            return cls(None)
        own = dist / "cosign.key"
        signer = cls(str(own), password or "")
        if not own.exists():
            signer.run("generate-key-pair", "--output-key-prefix", str(own.with_suffix("")))
            progress(f"no KEY given: created {own}; set KEY=… to use a permanent key")
        return signer

    def run(self, *arguments: str) -> str:
        """Run cosign; returns its output."""
        return tools.run("cosign", *arguments, settings={"COSIGN_PASSWORD": self.password})

    def public_key(self) -> str | None:
        """The public key in PEM; None for an identity."""
        return None if self.key is None else self.run("public-key", "--key", self.key)

    def attest(self, subject: str, *, kind: str, predicate: Path) -> None:
        """Attest a predicate of an image (`repository@digest`) in both formats."""
        what = ["--type", kind, "--predicate", str(predicate), subject]
        old = ["--new-bundle-format=false", "--use-signing-config=false"]
        if self.key is None:
            self.run("attest", "--yes", *what)
            self.run("attest", "--yes", *old, *what)
            return
        with _offline(self) as config:
            self.run("attest", "--key", self.key, "--signing-config", config, *what)
        self.run("attest", "--key", self.key, "--tlog-upload=false", *old, *what)

    def sign(self, file: Path, bundle: Path) -> None:
        """Sign a file; `bundle` is the file for the signature, with the certificate if any."""
        what = ["--bundle", str(bundle), str(file)]
        if self.key is None:
            self.run("sign-blob", "--yes", *what)
            return
        with _offline(self) as config:
            self.run("sign-blob", "--key", self.key, "--signing-config", config, *what)


@contextmanager
def _offline(signer: Signer) -> Iterator[str]:
    """A file with a configuration of cosign that uses no service."""
    with tempfile.TemporaryDirectory() as folder:
        config = f"{folder}/signing-config.json"
        none = [f"--no-default-{service}" for service in _NO_SERVICES]
        signer.run("signing-config", "create", *none, "--out", config)
        yield config
