#!/bin/sh
# Make the images that the Dockerfile stands on from Debian packages, for places where no registry
# of images can be reached:
#
#   scripts/base-image.sh CACHE [MIRROR]
#   buildah bud --build-arg BASE=localhost/gpuid-base --build-arg BUILDER=localhost/gpuid-builder .
#
# The folder CACHE keeps what was fetched. MIRROR is by default the one that apt uses. As root, on
# Debian 12 or Ubuntu; needs debootstrap and buildah.
set -eu

cache=$1
suite=bookworm
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -f "$cache/root-$suite.tar" ]; then
    mirror=${2:-$(apt-get indextargets --format '$(SITE)' "Codename: $suite" | head -n 1)}
    debootstrap --variant=minbase --include=python3,ca-certificates \
        "$suite" "$work/root" "$mirror" >"$cache/debootstrap.log" 2>&1 || {
        tail -n 20 "$cache/debootstrap.log" >&2
        exit 1
    }
    cd "$work/root"
    rm -rf dev/* tmp/* run/* var/cache/* var/log/* var/lib/apt/lists/* etc/apt/sources.list \
        etc/hostname etc/resolv.conf usr/share/locale usr/share/man usr/share/info \
        usr/share/lintian usr/share/bash-completion
    find usr/share/doc -type f ! -name copyright -delete
    find . -name __pycache__ -prune -exec rm -rf {} +
    tar --create --file "$work/root.tar" --sort=name --mtime=@0 --numeric-owner .
    mv "$work/root.tar" "$cache/root-$suite.tar"
fi
if [ ! -f "$cache/pip-$suite.whl" ]; then
    mkdir "$work/pip"
    chown _apt "$work" "$work/pip" 2>/dev/null || true
    cd "$work/pip"
    # The package holds one wheel, from which pip runs as it is.
    apt-get download --quiet --quiet python3-pip-whl
    dpkg-deb --extract python3-pip-whl_*.deb .
    mv usr/share/python-wheels/pip-*.whl "$cache/pip-$suite.whl"
fi

cd "$cache"
printf 'FROM scratch\nADD root-%s.tar /\nENV PATH=/usr/bin:/bin\n' "$suite" |
    buildah bud --quiet --timestamp 0 --tag localhost/gpuid-base --file - .
printf 'FROM localhost/gpuid-base\nCOPY pip-%s.whl /pip.whl\nENV PYTHONPATH=/pip.whl\n' "$suite" |
    buildah bud --quiet --timestamp 0 --tag localhost/gpuid-builder --file - .
