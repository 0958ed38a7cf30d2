#!/bin/bash
# Prints the folders of the Go modules that hold packages, the root as ".", from
# what git tracks. Modules that only pin tools are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
{ git ls-files '*go.mod' && git ls-files '*.go'; } | awk '
	/(^|\/)go\.mod$/ { sub(/\/?go\.mod$/, ""); module[$0 == "" ? "." : $0]; next }
	{
		dir = $0
		while (sub(/\/[^\/]*$/, "", dir)) if (dir in module) { found[dir]; next }
		found["."]
	}
	END { for (d in found) print d }' | sort
