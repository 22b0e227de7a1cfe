#!/bin/sh
# Build the images on which the Dockerfile is based from Debian packages, for networks without access
# to an image registry:
#
#   scripts/base-image.sh CACHE [MIRROR]
#   buildah bud --build-arg BASE=localhost/gpuid-base --build-arg BUILDER=localhost/gpuid-builder .
#
# The folder CACHE keeps downloads. MIRROR defaults to the mirror that apt uses. The script runs as
# root on Debian 12 or Ubuntu, and needs debootstrap and buildah.
set -eu

cache=$1
suite=bookworm
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pack() { tar --create --file "$1.partial" --sort=name --mtime=@0 --numeric-owner . && mv "$1.partial" "$1"; }

if [ ! -f "$cache/base.tar" ]; then
    mirror=${2:-$(apt-get indextargets --format '$(SITE)' "Codename: $suite" | head -n 1)}
    debootstrap --variant=minbase --include=python3,ca-certificates \
        "$suite" "$work/root" "$mirror" >"$cache/debootstrap.log" 2>&1 || {
        tail -n 20 "$cache/debootstrap.log" >&2
        exit 1
    }
    cd "$work/root"
    rm -rf dev/* tmp/* run/* var/cache/* var/log/* var/lib/apt/lists/* etc/apt/sources.list \
        etc/hostname etc/resolv.conf
    find . -name __pycache__ -prune -exec rm -rf {} +
    pack "$cache/builder.tar"
    # The base keeps Python, its libraries, certificates, time zones and the list of packages. All
    # other programs are removed: the operator needs none of them at run time.
    find usr/bin usr/sbin ! -type d ! -name 'python3*' -delete
    rm -rf usr/lib/apt usr/lib/dpkg usr/lib/*/perl-base usr/lib/systemd usr/lib/udev usr/share/perl5 \
        usr/share/debconf usr/share/dpkg usr/share/locale usr/share/man usr/share/info \
        usr/share/lintian usr/share/bash-completion usr/share/keyrings var/lib/dpkg/info \
        usr/lib/*/libapt-pkg.so* usr/lib/*/security etc/apt
    find usr/share/doc -type f ! -name copyright -delete
    pack "$cache/base.tar"
fi
if [ ! -f "$cache/pip.whl" ]; then
    mkdir "$work/pip"
    cd "$work/pip"
    chown _apt "$work" .
    # The package contains one wheel, from which pip runs directly.
    apt-get download --quiet --quiet python3-pip-whl
    dpkg-deb --extract python3-pip-whl_*.deb .
    mv usr/share/python-wheels/pip-*.whl "$cache/pip.whl"
fi

cd "$cache"
printf 'FROM scratch\nADD base.tar /\nENV PATH=/usr/bin\n' |
    buildah bud --quiet --timestamp 0 --tag localhost/gpuid-base --file - .
printf 'FROM scratch\nADD builder.tar /\nCOPY pip.whl /\nENV PATH=/usr/bin PYTHONPATH=/pip.whl\n' |
    buildah bud --quiet --timestamp 0 --tag localhost/gpuid-builder --file - .
