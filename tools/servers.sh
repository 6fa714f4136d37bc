#!/bin/sh
# Sees to the servers that tests start: PostgreSQL, PgBouncer, Redis, RabbitMQ, and to what breaks
# processes: strace, libfaketime. Quick when all are there.
# As root on Debian it installs what is missing and leaves it stopped. Elsewhere it says what is
# missing and goes on: the tests may find a container engine, or are reported as not run.
set -eu

packages=
if ! command -v postgres >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 &&
  ! ls /usr/pgsql-*/bin/postgres >/dev/null 2>&1; then
  packages="$packages postgresql"
fi
[ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null 2>&1 || packages="$packages pgbouncer"
command -v redis-server >/dev/null 2>&1 || packages="$packages redis-server"
command -v rabbitmq-server >/dev/null 2>&1 || packages="$packages rabbitmq-server"
command -v strace >/dev/null 2>&1 || packages="$packages strace"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || packages="$packages libfaketime"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "servers: not on this machine:$packages; install them, or run a container engine" >&2
  exit 0
fi

# Debian starts a service as soon as it is installed, unless this file is there and forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
echo "servers: installing$packages" >&2
# shellcheck disable=SC2086  # a list
if ! { apt-get update -qq &&
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 $packages >/dev/null; }; then
  echo "servers: could not be installed:$packages" >&2
  exit 0
fi
if command -v systemctl >/dev/null 2>&1; then
  for package in $packages; do
    systemctl disable --quiet "$package" 2>/dev/null || true  # nor at the next boot
  done
fi
