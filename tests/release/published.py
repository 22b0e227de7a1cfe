"""A published release, and the network without an outside in which it is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.gotools import go_tool

ROOT = Path(__file__).parent.parent.parent
PASSWORD = "a password of the key"


class Island:
    """A network of its own, in which programs run."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "up\n"
        self._prefix = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._prefix, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(
        self, *command: str | Path, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """What became of a program; with `check`, that it did not fail."""
        done = subprocess.run(
            [*self._prefix, *map(str, command)],
            env=os.environ | {"COSIGN_PASSWORD": PASSWORD} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = " ".join(map(str, command))
        assert not check or done.returncode == 0, f"{shown}:\n{done.stdout}{done.stderr}"
        return done

    def tool(
        self, name: str, *arguments: str | Path, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(go_tool(name), *arguments, check=check, **environment)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout:
            self._holder.stdout.close()


@dataclass(frozen=True)
class Release:
    """What was made of HEAD and where it was published."""

    island: Island
    folder: Path
    clone: Path
    key: Path
    registries: list[str]

    @property
    def about(self) -> dict[str, Any]:
        """The content of release.json."""
        return json.loads((self.folder / "release.json").read_text())  # type: ignore[no-any-return]

    @property
    def repository(self) -> str:
        return f"{self.registries[0]}/team/gpuid-operator"

    @property
    def image(self) -> str:
        return f"{self.repository}@{self.about['image']}"

    @property
    def images(self) -> dict[str, str]:
        """The index's image and those of the architectures, by name."""
        digests = {"index": self.about["image"], **self.about["platforms"]}
        return {name: f"{self.repository}@{digest}" for name, digest in digests.items()}

    @property
    def public_key(self) -> Path:
        return self.key.with_suffix(".pub")


def clone(origin: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(origin), str(folder)], check=True)
    return folder


def make(*arguments: str) -> list[str]:
    """A call of make that takes the environment of these tests as it is."""
    venv = Path(sys.prefix)
    return ["make", "-o", f"{venv}/bin/gpuid-operator", f"VENV={venv}", *arguments]


def new_key(island: Island, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "cosign"
    island.tool("cosign", "generate-key-pair", "--output-key-prefix", prefix)
    return prefix.with_suffix(".key")
