#!/bin/bash
# Compiles the generated distribution (_build) to the path given, and prints how many
# of the packages that are not cached are compiled.
set -euo pipefail
out=${1:?usage: build.sh OUTPUT}
cd "$(dirname "$0")/../_build"
flags=(-trimpath)
total=$(go list "${flags[@]}" -deps -f '{{if .StaleReason}}x{{end}}' . 2>/dev/null | grep -c x || true)
start=$SECONDS
echo "compiling the distribution: $total packages are not cached"
go build "${flags[@]}" -v -ldflags='-s -w' -o "$out" . 2> >(
	done=0 shown=$SECONDS
	while IFS= read -r line; do
		case $line in
		'go: downloading '*) continue ;;
		*' '* | *:*) echo "$line" >&2 ;; # an error or a warning
		*)
			done=$((done + 1))
			if [ $((SECONDS - shown)) -ge 10 ]; then
				shown=$SECONDS
				echo "compiled $done of $total packages, $((SECONDS - start)) s"
			fi
			;;
		esac
	done
)
echo "compiled the distribution in $((SECONDS - start)) s"
