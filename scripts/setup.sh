#!/bin/sh
# setup.sh installs the host packages that are missing, and says what it does.
#
#   scripts/setup.sh run     what banger needs
#   scripts/setup.sh test    that, and what its tests need
#   scripts/setup.sh list    only shows what is missing for both
#
# It knows apt-get, dnf, pacman, zypper and apk, and uses sudo when it is not
# root. Tried on Debian; for the others the names come from their package lists
# and nobody has run them here. packages.txt is the list.
set -eu

cd "$(dirname "$0")"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() {
	echo "setup: $*" >&2
	exit 1
}

# manager prints the host's package manager, as a column of packages.txt.
manager() {
	for m in apt-get dnf pacman zypper apk; do
		if command -v "$m" >/dev/null 2>&1; then
			echo "$m"
			return
		fi
	done
}

# there tells whether a program or a file is.
there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# missing prints "package program" for what is not there of the kinds named.
missing() {
	while read -r kind program apt dnf pacman zypper apk; do
		case " $1 " in *" $kind "*) ;; *) continue ;; esac
		there "$program" && continue
		case $MANAGER in
		apt-get) package=$apt ;;
		dnf) package=$dnf ;;
		pacman) package=$pacman ;;
		zypper) package=$zypper ;;
		apk) package=$apk ;;
		*) package='?' ;;
		esac
		[ "$package" = - ] || echo "$package $program"
	done <packages.txt
}

as_root() {
	echo "setup: $*"
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		fail "this needs root, and there is no sudo: run it as root"
	fi
}

# keep_firewall_off keeps a firewall that only the tests' own network
# namespaces use from starting on this host when it is installed.
keep_firewall_off() {
	[ -d /run/systemd/system ] || return 0
	for service in ufw firewalld; do
		case " $1 " in *" $service "*) as_root systemctl mask "$service.service" ;; esac
	done
}

install() {
	keep_firewall_off "$*"
	case $MANAGER in
	apt-get)
		as_root apt-get -q update
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@"
		;;
	dnf) as_root dnf -y install --setopt=install_weak_deps=False "$@" ;;
	pacman) as_root pacman -S --noconfirm --needed "$@" ;;
	zypper) as_root zypper --non-interactive install --no-recommends "$@" ;;
	apk) as_root apk add "$@" ;;
	*) fail "no package manager that it knows; install what brings: $*" ;;
	esac
}

MANAGER=$(manager)
case ${1:-run} in
run) kinds=run ;;
test) kinds='run test' ;;
list)
	missing 'run test'
	exit 0
	;;
*) fail "it knows run, test and list, not $1" ;;
esac

needed=$(missing "$kinds")
if [ -z "$needed" ]; then
	exit 0
fi
echo "setup: missing on this host:"
echo "$needed" | while read -r package program; do
	echo "setup:   $program (package $package)"
done
if [ -z "$MANAGER" ]; then
	fail "no package manager that it knows (apt-get, dnf, pacman, zypper, apk): install these by hand"
fi
# shellcheck disable=SC2046 # one word for each package
install $(echo "$needed" | cut -d' ' -f1 | sort -u)
left=$(missing "$kinds")
[ -z "$left" ] || fail "still missing: $left"
