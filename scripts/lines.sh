#!/bin/bash
# Prints the hand-written Go lines by folder: without tests, generated files, blank
# lines and comment lines. The product is the components and internal/, without the
# test doubles.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*.go' | grep -v -e '_test\.go$' -e '/generated_' | LC_ALL=C awk '
	{
		file = $0; split(file, part, "/")
		product = file ~ /^(receiver|connector|extension|internal)\// && file !~ /^internal\/testing\//
		folder = part[1] "/" part[2]
		if (part[1] == "internal" && part[2] == "testing") folder = "internal/testing/" part[3]
		while ((getline line < file) > 0) {
			all[file]++
			if (line ~ /^[ \t]*($|\/\/)/) continue
			lines[folder]++
			if (product) { total++; bytes += length(line) + 1 }
		}
		close(file)
		if (product && all[file] > 400) long[file] = all[file]
	}
	END {
		for (f in lines) printf "%6d  %s\n", lines[f], f | "sort -k2"
		close("sort -k2")
		printf "%6d  product, %.2f bytes a line on average\n", total, bytes / total
		for (f in long) printf "product file over 400 lines: %s (%d)\n", f, long[f]
	}'
