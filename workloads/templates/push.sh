#!/bin/sh
# ./push.sh [REF]: pushes {{name}}.wasm, signed with this machine's own key, and prints REF@sha256:…
# Without REF to the node on this machine, which is a registry too: `vyr serve`.
set -eu
cd "$(dirname "$0")"

exec vyr push "${1:-localhost:7070/{{name}}:v1}" {{name}}.wasm
