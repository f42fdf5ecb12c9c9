#!/bin/sh
# Builds {{name}}.wasm, {{kind}}.
set -eu
cd "$(dirname "$0")"

# The compiler for wasm32-wasi; README.md names others.
compile() { {{compiler}} "$@"; }

compile -O2 -s -Wall -o {{name}}.wasm main.c
