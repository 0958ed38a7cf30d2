#!/bin/bash
# Runs the end-to-end tests: scripts/e2e.sh [FOLDER]. A test that fails beside the others, which keep
# the machine busy, runs once more alone, and must pass; both runs are printed. What was lost or came
# twice is a failure all the same, however often the test passes then.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-e2e}
gotestsum=$(scripts/tool.sh gotestsum)
events=$(mktemp) report=$(mktemp)
trap 'rm -f "$events" "$report"' EXIT
status=0
(cd "$folder" && "$gotestsum" --format pkgname-and-test-fails --format-icons text --rerun-fails=1 --rerun-fails-max-failures=10 --rerun-fails-run-root-test \
	--rerun-fails-report "$report" --jsonfile "$events" --packages ./... -- -count=1 -parallel 64 -timeout 40m) || status=$? # beside_test.go says how many run at a time
figures=$(sed 's/\\u003c/</g; s/\\u003e/>/g' "$events" | grep -aoE 'figure [a-z0-9_.-]+ [^"\\]*' || true) # JSON
echo "$figures"
again=$(grep ' runs, ' "$report" | grep -vc '\.Test[^ ]*/' || true) # subtests are run again with theirs
echo "figure test.again $again tests goal <= 0 $([ "$again" = 0 ] && echo met || echo missed)"
if grep -E '\.(missing[a-z_]*|(spans_|outcome_)?lost|double|forgotten) .* missed$' <<<"$figures"; then
	echo "e2e.sh: something was lost or came twice, see above" >&2
	status=1
fi
exit "$status"
