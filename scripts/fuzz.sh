#!/bin/bash
# Runs every fuzz target of every module for FUZZ_SECONDS (10) and prints one figure line
# each: how many inputs it executed. The first crash ends it with the input.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-10}
targets=0
for module in $(scripts/modules.sh); do
	for package in $(cd "$module" && go list ./...); do
		for target in $(go test -C "$module" -list '^Fuzz' "$package" 2>/dev/null | grep '^Fuzz' || true); do
			# Without a bound, Go spends most of the time on making interesting inputs smaller.
			if ! out=$(go test -C "$module" -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 5x "$package" 2>&1); then
				echo "$out"
				echo "figure fuzz.crashes 1 crashes goal <= 0 missed"
				exit 1
			fi
			executions=$(sed -n 's/^fuzz: elapsed: .*execs: \([0-9]*\).*/\1/p' <<<"$out" | tail -1)
			echo "figure fuzz.${package##*/}.$target ${executions:-0} executions"
			targets=$((targets + 1))
		done
	done
done
echo "figure fuzz.targets $targets targets"
echo "figure fuzz.crashes 0 crashes goal <= 0 met"
