#!/bin/sh
# Installs one program with "go install" unless it is there: install_go_program.sh MODULE@VERSION DIRECTORY
# It is built once and kept, in a directory outside the checkout whose name has the version.
set -eu
module="$1" directory="$2"
name="${module%@*}" name="${name##*/}"
if [ -x "$directory/$name" ]; then
    echo "$name: $directory/$name"
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "$name cannot be built: there is no go here (https://go.dev/dl/)" >&2
    exit 1
fi
mkdir -p "$directory"
echo "$name: go install $module, once; with much to compile this takes some minutes ..."
if ! output="$(CGO_ENABLED=1 GOBIN="$directory" go install "$module" 2>&1)"; then
    printf '%s\n' "$output" | grep -v '^go: downloading ' >&2 || true
    case "$output" in
        *"403 Forbidden"*) echo "$name cannot be built: the Go module proxy ($(go env GOPROXY)) refuses a module" >&2 ;;
        *) echo "$name cannot be built: go install $module failed" >&2 ;;
    esac
    exit 1
fi
echo "$name: $directory/$name"
