#!/bin/bash
# Prints "empty" if both of Go's caches, of modules and of builds, are empty.
modules=$(go env GOMODCACHE) builds=$(go env GOCACHE)
[ -z "$(find "$modules" -mindepth 1 -print -quit 2>/dev/null)" ] &&
	[ -z "$(find "$builds" -mindepth 2 -print -quit 2>/dev/null)" ] && echo empty
exit 0
