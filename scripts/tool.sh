#!/bin/bash
# Prints the path of a tool or a test server, building it first if it is not
# there: scripts/tool.sh NAME. The versions are those of the modules under
# tools/; what is built stays in .cache/tools, keyed by version.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: tool.sh NAME}
case $name in
builder) dir=tools module=go.opentelemetry.io/collector/cmd/builder ;;
mdatagen) dir=tools module=go.opentelemetry.io/collector/cmd/mdatagen ;;
gotestsum) dir=tools module=gotest.tools/gotestsum ;;
golangci-lint) dir=tools/lint module=github.com/golangci/golangci-lint/v2 package=$module/cmd/golangci-lint ;;
prometheus | promtool) dir=tools/prometheus module=github.com/prometheus/prometheus package=$module/cmd/$name ;;
victoria-metrics | vmalert | vmalert-tool) dir=tools/victoriametrics module=github.com/VictoriaMetrics/VictoriaMetrics package=$module/app/$name ;;
victoria-logs) dir=tools/victorialogs module=github.com/VictoriaMetrics/VictoriaLogs package=$module/app/$name ;;
alertmanager | amtool) dir=tools/alertmanager module=github.com/prometheus/alertmanager package=$module/cmd/$name ;;
jsonnet) dir=tools/rules module=github.com/google/go-jsonnet package=$module/cmd/jsonnet ;;
jaeger) dir=tools/jaeger module=github.com/jaegertracing/jaeger package=$module/cmd/all-in-one ;;
*)
	echo "tool.sh: $name is none of builder, mdatagen, gotestsum, golangci-lint, prometheus, promtool, victoria-metrics, vmalert, vmalert-tool, victoria-logs, alertmanager, amtool, jsonnet, jaeger" >&2
	exit 2
	;;
esac
version=$(awk -v m="$module" '{ for (i = 1; i < NF; i++) if ($i == m && $(i + 1) ~ /^v[0-9]/) { print $(i + 1); exit } }' "$dir/go.mod")
[ -n "$version" ] || { echo "tool.sh: $dir/go.mod requires no $module" >&2; exit 1; }
path=$PWD/.cache/tools/$name-$version
if [ ! -x "$path" ]; then
	mkdir -p .cache/tools
	exec 9>".cache/tools/$name.lock"
	flock 9
	if [ ! -x "$path" ]; then
		start=$SECONDS
		echo "building $name $version (once; minutes if nothing is cached)" >&2
		# What `make run` needs is compiled with the flags of the distribution, so that
		# each package that they share is compiled once.
		flags=(-ldflags='-s -w')
		case $name in builder | victoria-metrics | victoria-logs | vmalert | vmalert-tool) flags+=(-trimpath) ;; esac
		if [ "$name" = alertmanager ]; then
			# Its module lacks the assets of its page, without which it does not compile: a copy
			# of its sources gets a placeholder.
			sources=$PWD/.cache/tools/$name-$version.src
			rm -rf "$sources" && mkdir -p "$sources"
			cp "$dir"/go.mod "$dir"/go.sum "$sources"
			go -C "$sources" mod vendor -e 2>&1 | { grep -v "pattern app/dist" >&2 || true; }
			assets=$sources/vendor/$module/ui/app/dist
			mkdir -p "$assets"
			echo '<!doctype html><title>Alertmanager</title><p>This build has no page: use amtool, or the page Alerting of VictoriaMetrics.' >"$assets/index.html"
			dir=$sources flags+=(-mod=vendor)
		fi
		CGO_CFLAGS=${CGO_CFLAGS:--O2 -g} go build -C "$dir" "${flags[@]}" -o "$path.tmp" "${package:-$module}" >&2
		mv "$path.tmp" "$path"
		[ -z "${sources:-}" ] || rm -rf "$sources"
		echo "built $name in $((SECONDS - start)) s" >&2
	fi
fi
echo "$path"
