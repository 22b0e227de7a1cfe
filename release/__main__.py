"""In a clone: `python -m release build`, then `python -m release publish REGISTRY[,REGISTRY…]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError
from release.build import build
from release.errors import ReleaseError
from release.files import downloads, write_checksums
from release.policies import write_policies
from release.project import ROOT
from release.publish import publish
from release.signer import Signer


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run a command; the exit code is 1 if a step fails."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="output folder")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="build image, chart, wheel and manifests of HEAD")
    make.add_argument("--source", help="URL of the repository with the commit")
    make.add_argument("--builder", help="URI of the builder, for the provenance")
    make.add_argument("--registry", help="host/path of the image in the manifests, or a list")
    send = commands.add_parser("publish", help="push them to registries and attest them")
    send.add_argument("registries", help="host/path, several separated by commas")
    send.add_argument("--key", help="private key of cosign")
    commands.add_parser("files", help="print the paths of the files for download")
    options = parser.parse_args()
    dist = options.dist.absolute()
    try:
        if options.command == "build":
            made = build(
                dist,
                source=options.source,
                builder=options.builder,
                registry=(options.registry or "").partition(",")[0] or None,
                cache=toolchain.cache_directory() / "release",
                progress=_progress,
            )
            print(f"{made['name']}@{made['image']}")
        elif options.command == "files":
            print(*downloads(dist), sep="\n")
        else:
            signer = Signer.choose(options.key, dist, _progress)
            write_policies(dist, signer)
            write_checksums(dist, signer)
            for registry in filter(None, options.registries.split(",")):
                print(publish(dist, registry, signer, _progress))
    except (ReleaseError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
