#!/bin/sh
# Installs what debian.txt lists and this machine lacks.
set -eu
cd "$(dirname "$0")"
missing=""
for package in $(sed 's/#.*//' debian.txt); do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null || { echo "make test-full needs a Debian machine with:$missing" >&2; exit 1; }
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the list is meant to be split
$as_root apt-get install --yes --no-install-recommends $missing || {
    $as_root apt-get update
    $as_root apt-get install --yes --no-install-recommends $missing
}
