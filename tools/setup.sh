#!/bin/sh
# Prepares .venv from the committed lock. Quick when nothing changed. Needs Python >= 3.11 only.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
stamp=.venv/.ready-$(cat pyproject.toml requirements.lock tools/setup.sh | cksum | tr ' ' '-')
[ -e "$stamp" ] && exit 0

find_python() {
  for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "setup: Python 3.11 or newer is needed and none was found; install it or set PYTHON=/path/to/python" >&2
  exit 1
}

python=$(find_python)
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  # Debian ships the venv module without pip; its package brings it.
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
      version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
    else
      echo "setup: $python has no ensurepip; install your system's python3-venv package" >&2
      exit 1
    fi
  fi
  "$python" -m venv .venv
fi
rm -f .venv/.ready-*
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
export VIRTUAL_ENV="$PWD/.venv"
# Compiled now, the first start is quick as well, also where Python may not write what it compiles.
.venv/bin/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation -e .
.venv/bin/python -m compileall -q src
touch "$stamp"
