#!/bin/sh
# Builds a program of the tests' own from its directory unless it is there: build_go_program.sh SOURCE DIRECTORY
# It is built once and kept, in a directory outside the checkout whose name has its version.
set -eu
source="$1" directory="$2"
name="${source##*/}"
if [ -x "$directory/$name" ]; then
    echo "$name: $directory/$name"
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "$name cannot be built: there is no go here (https://go.dev/dl/)" >&2
    exit 1
fi
mkdir -p "$directory"
echo "$name: go build $source, once; this takes a minute or two ..."
if ! output="$(cd "$source" && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$directory/$name" . 2>&1)"; then
    printf '%s\n' "$output" | grep -v '^go: downloading ' >&2 || true
    case "$output" in
        *"403 Forbidden"*) echo "$name cannot be built: the Go module proxy ($(go env GOPROXY)) refuses a module" >&2 ;;
        *) echo "$name cannot be built: go build in $source failed" >&2 ;;
    esac
    exit 1
fi
echo "$name: $directory/$name"
