#!/bin/bash
# Checks that what the build needs is there: Go, gcc, git; with the argument "tests"
# also what only tests need: Chromium. On Debian, as root, it installs what is missing
# by package name.
set -euo pipefail
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v git >/dev/null || missing+=(git)
command -v flock >/dev/null || missing+=(util-linux)
if [ "${1:-}" = tests ]; then
	command -v chromium >/dev/null || missing+=(chromium)
	# Without it Chinese is squares, of another width than the characters.
	[ -n "$(ls /usr/share/fonts/*/noto/NotoSansCJK* 2>/dev/null)" ] || missing+=(fonts-noto-cjk)
fi
if ! command -v go >/dev/null; then
	echo "setup: Go is not on the PATH: install Go 1.26 or newer" >&2
	exit 1
fi
need=$(awk '$1 == "go" { print $2; exit }' "$(dirname "$0")/../go.mod")
have=$(go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -1)" != "$need" ]; then
	echo "setup: Go $have is older than $need, which go.mod asks for: install a newer one" >&2
	exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "setup: installing ${missing[*]}"
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
else
	echo "setup: install these first: ${missing[*]}" >&2
	exit 1
fi
