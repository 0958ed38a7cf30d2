#!/bin/bash
# Checks the rule files and runs their tests: recording rules in promtool, alerts in
# promtool and in vmalert-tool, so that they mean the same in Prometheus and in vmalert.
# Then checks that each alert has its tests and its runbook, and prints how many there are.
set -euo pipefail
cd "$(dirname "$0")/.."
promtool=$(scripts/tool.sh promtool)
vmalert=$(scripts/tool.sh vmalert-tool)
narrow=$(mktemp -d)
trap 'rm -rf "$narrow"' EXIT
go -C tools/rules run . narrow "$PWD" "$narrow"
alerts=("$narrow"/*/tests/alerts/*.yaml)

# Runs a command, and shows what it printed if it fails.
quietly() {
	local out
	out=$("$@" 2>&1) || { echo "$out" >&2; return 1; }
}

quietly "$promtool" check rules deploy/prometheus/rules/*.yaml
quietly "$vmalert" unittest --disableAlertgroupLabel "${alerts[@]/#/--files=}" &
vmalert_tests=$!
failed=0
quietly "$promtool" test rules deploy/prometheus/tests/*.yaml "${alerts[@]}" || failed=1
wait $vmalert_tests || failed=1
[ $failed = 0 ] || exit 1
go -C tools/rules run . check "$PWD"
