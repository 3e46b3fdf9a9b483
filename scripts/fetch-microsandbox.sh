#!/bin/sh
# fetch-microsandbox.sh prints the path of microsandbox's wheel, which carries
# its program msb and its kernel. The benchmark compares banger with it. It is
# kept in banger's cache.
#
# Needs pip (Debian: python3-pip) when it is not in the cache yet.
set -eu

version=0.7.11
sum=65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0

fail() {
	echo "fetch-microsandbox.sh: $*" >&2
	exit 1
}

is_it() { echo "$sum  $1" | sha256sum --check --status 2>/dev/null; }

dir=${XDG_CACHE_HOME:-$HOME/.cache}/banger/test
path=$dir/microsandbox-$version.whl
if [ -e "$path" ] && is_it "$path"; then
	echo "$path"
	exit 0
fi

python3 -m pip --version >/dev/null 2>&1 ||
	fail "cannot fetch microsandbox $version without pip: install it (Debian: python3-pip)"
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
	--python-version 3.13 --platform manylinux_2_28_x86_64 --dest "$tmp" "microsandbox==$version" >&2 ||
	fail "cannot fetch microsandbox $version: pip could not download it; try again"
mv "$tmp"/*.whl "$tmp/wheel"
is_it "$tmp/wheel" || fail "cannot use microsandbox $version: its sha256 is not $sum"
mv "$tmp/wheel" "$path"
echo "$path"
