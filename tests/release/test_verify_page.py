"""docs/verify.md, command by command: each does what the page says, and prints it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.release.published import ROOT, Release, new_key
from tests.support.gotools import go_tool

PAGE = ROOT / "docs" / "verify.md"
TOOLS = ("cosign", "crane", "oras", "policy-tester")
HOST = "registry.example.com"
MARK = "@@ next command @@"
VARYING = {
    r"[0-9a-f]{40,}|[0-9a-f]{12}": "<hash>",
    r"\d{4}-\d\d-\d\dT[\d:]+Z": "<time>",
    r'"size":\d+': '"size":<size>',
}


def commands(page: str) -> list[tuple[str, str]]:
    """Every command of the page's console blocks, with what it prints."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = entry.partition("\n")
            found.append((command, output))
    return found


def plain(output: str) -> list[str]:
    """The lines of an output without what differs from one commit to the next."""
    for pattern, word in VARYING.items():
        output = re.sub(pattern, word, output)
    # What refers to an image is a tree whose branches come in any order.
    return sorted(line.lstrip(" │├└─") for line in output.splitlines())


def outputs(release: Release, folder: Path, page: str) -> list[str]:
    """What the commands of the page print, in one shell, on the island."""
    programs = folder / "bin"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).symlink_to(go_tool(name))
    shutil.copy(release.public_key, folder / "cosign.pub")
    shutil.copy(new_key(release.island, folder / "other").with_suffix(".pub"), folder / "other.pub")
    (folder / "dist").symlink_to(release.folder)
    registry = release.registries[0]
    script = f"\necho '{MARK}'\n".join(command for command, _ in commands(page))
    script = f"cd {folder}; PATH={programs}:$PATH\n{script.replace(HOST, registry)}"
    done = release.island.run("bash", "-e", "-o", "pipefail", "-c", script)
    return [one.lstrip("\n") for one in done.stdout.replace(registry, HOST).split(MARK)]


def test_the_page_is_what_happens(release: Release, tmp_path: Path) -> None:
    page = PAGE.read_text()
    printed = outputs(release, tmp_path, page)
    for (command, expected), output in zip(commands(page), printed, strict=True):
        assert plain(output) == plain(expected), command
