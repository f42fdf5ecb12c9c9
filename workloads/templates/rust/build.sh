#!/bin/sh
# Builds {{name}}.wasm, {{kind}}.
set -eu
cd "$(dirname "$0")"

cargo build --release --target {{target}} --target-dir target
cp target/{{target}}/release/{{name}}.wasm {{name}}.wasm
