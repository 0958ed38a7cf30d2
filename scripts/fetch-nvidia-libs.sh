#!/bin/bash
# Fetches NVIDIA's own NVML libraries of drivers 535 and 470 from Debian's
# non-free component, without installing anything: the packages are downloaded
# and unpacked into the folder given, and the system's package sources are not
# changed. Exits 3 where there is no Debian to ask.
set -euo pipefail
dest=${1:?usage: fetch-nvidia-libs.sh FOLDER}
command -v apt-get >/dev/null && command -v dpkg >/dev/null && grep -q '^ID=debian' /etc/os-release || {
	echo "fetch-nvidia-libs: this is not Debian; NVIDIA's libraries cannot be fetched" >&2
	exit 3
}
[ -e "$dest/535/libnvidia-ml.so.1" ] && [ -e "$dest/470/libnvidia-ml.so.1" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,archives/partial,sources} "$dest"
# The system's own Debian sources with non-free added, in either format.
for f in /etc/apt/sources.list.d/*.sources; do
	[ -e "$f" ] && grep -q 'debian-archive-keyring' "$f" &&
		sed 's/^Components:.*/Components: main non-free/' "$f" >"$work/sources/$(basename "$f")"
done
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
	sed -n 's/^\(deb .*debian.* main\).*/\1 non-free/p' >"$work/sources/plain.list" || true
apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources"
	-o Dir::State::lists="$work/lists" -o Dir::Cache::archives="$work/archives" -o APT::Sandbox::User=root)
echo "fetching NVIDIA's libnvidia-ml of drivers 535 and 470 from Debian non-free"
"${apt[@]}" update
cd "$work"
"${apt[@]}" download libnvidia-ml1 libnvidia-tesla-470-ml1
for package in *.deb; do dpkg -x "$package" "$work/root-${package%%_*}"; done
for pair in 535:libnvidia-ml1 470:libnvidia-tesla-470-ml1; do
	so=$(find "$work/root-${pair#*:}" -name 'libnvidia-ml.so.*.*' -type f | head -1)
	mkdir -p "$dest/${pair%%:*}"
	cp "$so" "$dest/${pair%%:*}/libnvidia-ml.so.1.tmp"
	mv "$dest/${pair%%:*}/libnvidia-ml.so.1.tmp" "$dest/${pair%%:*}/libnvidia-ml.so.1"
done
