#!/bin/bash
# Prints the folder with npm packages, installing them first if they are not there:
# scripts/npm.sh [FOLDER]. FOLDER is tools/npm (ComfyUI's clients, for tests) or
# tools/pagenpm (what the live page and its tests are made of). They stay in .cache,
# keyed by what the folder asks for.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-tools/npm}
if ! command -v npm >/dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "npm.sh: installing nodejs and npm" >&2
		apt-get -qq update >&2
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nodejs npm >/dev/null
	else
		echo "npm.sh: install nodejs and npm first: tests and make generate need npm packages" >&2
		exit 1
	fi
fi
path=$PWD/.cache/npm-$(cat "$folder"/* | sha256sum | cut -c1-16)
if [ ! -e "$path/done" ]; then
	mkdir -p .cache
	exec 9>.cache/npm.lock
	flock 9
	if [ ! -e "$path/done" ]; then
		rm -rf "$path"
		mkdir "$path"
		cp "$folder"/* "$path"
		(cd "$path" && npm ci --omit=optional --no-audit --no-fund --ignore-scripts >&2)
		touch "$path/done"
	fi
fi
echo "$path"
