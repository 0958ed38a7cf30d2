#!/bin/bash
# Runs make page-test and scripts/e2e.sh at the same time. The end-to-end tests that run one by one come
# first, have priority and leave the cores idle for most of their time; those that run at the same time
# (e2e/beside_test.go) wait for the end of page-test. What page-test prints comes when it has ended. Its
# policy is SCHED_IDLE, since Chromium sets the nice values of its processes itself.
set -euo pipefail
cd "$(dirname "$0")/.."
export E2E_WAITS_FOR
E2E_WAITS_FOR=$(mktemp)
printed=$(mktemp)
exec 9<"$E2E_WAITS_FOR"
flock 9
(
	status=0
	chrt --idle 0 "${MAKE:-make}" --no-print-directory page-test >"$printed" 2>&1 9<&- || status=$?
	cat "$printed"
	exit "$status"
) &
page=$!
exec 9<&- # the lock is page-test's
trap 'kill "$page" 2>/dev/null || true; rm -f "$E2E_WAITS_FOR" "$printed"' EXIT
status=0
scripts/e2e.sh || status=$?
wait "$page" || status=$?
exit "$status"
