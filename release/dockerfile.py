"""How the image runs, read from the last stage of the Dockerfile, which alone defines it."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from release.errors import ReleaseError


def configuration(dockerfile: str) -> dict[str, Any]:
    """The `config` of an OCI image; raises ReleaseError for an unsupported instruction."""
    last_stage = re.split(r"^FROM .*\n", dockerfile, flags=re.MULTILINE)[-1]
    joined = re.sub(r"\\\n", " ", last_stage)
    config: dict[str, Any] = {}
    for line in joined.splitlines():
        instruction, _, rest = line.strip().partition(" ")
        match instruction:
            case "ENV":
                config["Env"] = [*config.get("Env", ()), *shlex.split(rest)]
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "EXPOSE":
                config["ExposedPorts"] = {f"{port}/tcp": {} for port in rest.split()}
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(rest)
            case "CMD":
                config["Cmd"] = json.loads(rest)
            case "COPY" if rest == "--from=packages --chown=0:0 /app /app":
                pass  # release.image creates this layer with release.app, as the Dockerfile does
            case "" | "#":
                pass
            case _:
                raise ReleaseError(
                    f"failed to read the Dockerfile: unsupported instruction: {line}; add it to "
                    "release/dockerfile.py"
                )
    return config
