#!/bin/bash
# Checks the scripts of the live page with TypeScript: the types in their comments, and
# those of the JSON, which come from the OpenAPI document.
set -euo pipefail
cd "$(dirname "$0")/.."
page=connector/gpuadvisorconnector/internal/page
modules=$(scripts/npm.sh tools/pagenpm)/node_modules
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$page"/assets/*.js tools/pagetypes/*.d.ts tools/pagetypes/tsconfig.json "$work"
ln -s "$modules" "$work/node_modules"
node tools/pagetypes/api.mjs "$page/openapi.json" >"$work/api.d.ts"
(cd "$work" && node node_modules/typescript/bin/tsc) | sed "s#^\([a-z]*\.js\)#$page/assets/\1#"
