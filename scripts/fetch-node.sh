#!/bin/sh
# fetch-node.sh DIR prints the path of the node_modules that DIR's
# package-lock.json asks for, each package held to the hash in it. They are kept
# in banger's cache.
#
# Needs npm (Debian: npm) when they are not in the cache yet.
set -eu

fail() {
	echo "fetch-node.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] && [ -e "$1/package-lock.json" ] || fail "usage: fetch-node.sh <directory with a package-lock.json>"
from=$(cd "$1" && pwd)
sum=$(sha256sum "$from/package-lock.json" | cut -c 1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/banger/test
path=$dir/node-$sum
if [ -d "$path/node_modules" ]; then
	echo "$path/node_modules"
	exit 0
fi

command -v npm >/dev/null || fail "cannot fetch without npm: install it (Debian: npm)"
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

cp "$from/package.json" "$from/package-lock.json" "$tmp"
npm --prefix "$tmp" ci --silent --ignore-scripts --no-audit --no-fund >&2 ||
	fail "cannot fetch what $from/package-lock.json asks for: npm could not; try again"
rm -rf "$path"
mv "$tmp" "$path"
echo "$path/node_modules"
