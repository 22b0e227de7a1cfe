#!/bin/sh
# kubectl gpuid, as krew installs it: runs the plugin in a virtual environment beside this file. The
# first start creates it, from the wheel beside this file and the packages that requirements.txt
# locks by hash, which come from the package index that pip uses.
set -eu

self=$0
while [ -L "$self" ]; do
  target=$(readlink "$self")
  case $target in
    /*) self=$target ;;
    *) self=$(dirname "$self")/$target ;;
  esac
done
here=$(CDPATH='' cd "$(dirname "$self")" && pwd)
environment=$here/environment

find_python() {
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "kubectl gpuid needs Python 3.11 or newer in PATH, as python3 or with its version" >&2
  return 1
}

# A link to a Python that was removed since is not executable.
if ! [ -x "$environment/bin/python" ]; then
  python=$(find_python)
  made=$environment.$$
  trap 'rm -rf "$made"' EXIT
  trap 'exit 130' INT TERM
  echo "kubectl gpuid: first start, installing the Python packages of the plugin" >&2
  "$python" -m venv "$made" >&2
  "$made/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --only-binary=:all: --require-hashes --requirement "$here/requirements.txt" >&2
  "$made/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --no-index "$here"/gpuid_operator-*.whl >&2
  # Another start may have been faster.
  if ! [ -x "$environment/bin/python" ]; then
    rm -rf "$environment"
    mv "$made" "$environment"
  fi
  rm -rf "$made"
  trap - EXIT INT TERM
fi
exec "$environment/bin/python" -I -c 'from gpuid_operator.cli.plugin import main; main()' "$@"
