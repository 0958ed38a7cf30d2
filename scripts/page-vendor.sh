#!/bin/bash
# Copies what the live page uses of npm packages into its assets, with licences and
# versions. Whoever builds with ocb has no npm, so the copies are committed; `make
# generate` without a difference proves that they are unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."
from=$(scripts/npm.sh tools/pagenpm)/node_modules
to=connector/gpuadvisorconnector/internal/page/assets/vendor
mkdir -p "$to"
cp "$from/htm/preact/standalone.module.js" "$to/preact.js" # htm with Preact in it
cp "$from/uplot/dist/uPlot.iife.min.js" "$from/uplot/dist/uPlot.min.css" "$to"
cp "$from/htm/LICENSE" "$to/htm.LICENSE"
cp "$from/preact/LICENSE" "$to/preact.LICENSE"
cp "$from/uplot/LICENSE" "$to/uPlot.LICENSE"
version() { node -p "require('$from/$1/package.json').version"; }
cat >"$to/README.md" <<END
# What the page uses of others

Written by \`scripts/page-vendor.sh\` (\`make generate\`). Do not edit.

| file | npm package | version | licence |
| --- | --- | --- | --- |
| preact.js | htm (preact/standalone.module.js: htm, and Preact, MIT) | $(version htm) | Apache-2.0 (htm.LICENSE), MIT (preact.LICENSE) |
| uPlot.iife.min.js, uPlot.min.css | uplot | $(version uplot) | MIT (uPlot.LICENSE) |
END
