#!/bin/sh
# Builds {{name}}.wasm, {{kind}}.
set -eu
cd "$(dirname "$0")"

{{compiler}} -d wit -w command componentize app -o {{name}}.wasm
