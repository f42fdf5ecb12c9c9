#!/usr/bin/env bash
# A pipeline's way from source to a finished task: build, push with oras, sign with cosign, submit to a node, fail as the task
# failed, keep its trace and its output. The GitHub and GitLab files beside this one call its steps; a person can, too.
#
#   recipe.sh [STEP…]        build, push, sign, submit; all of them in this order unless told otherwise
#
# What it is told by variables:
#   REPOSITORY     where the artifact goes: host[:port]/repository. Needed by all but build
#   TAG            its tag. Default: v1
#   BUILD          the command that builds it. Default: ./build.sh where there is one, which `vyr new` writes
#   WASM           the file that comes of it. Default: the newest *.wasm here or in build/
#   COSIGN_PRIVATE_KEY, COSIGN_PASSWORD   the signing key. Without: cosign signs by the pipeline's identity (OIDC)
#   ARGS           arguments of the guest, a word each, separated by spaces
#   SUBMIT_FLAGS   more flags of `vyr submit`: --timeout 5m --memory 256MiB
#   VYR_NODE, VYR_TOKEN (or VYR_TOKEN_FILE)   the node; see `vyr submit --help`
#   RESULTS        the folder for what is kept of a run. Default: results
#
# What it keeps in RESULTS: digest, task.json (the task as it ended), stdout.log, stderr.log, trace.json (OTLP JSON, which any
# tracing backend imports), receipt.json (signed by the node).
#
# Exit code of submit: the task's: the guest's own, 124 timed out, 125 VYR failed, 126 refused, 127 not found, 130 cancelled.
set -euo pipefail

results=${RESULTS:-results}
tag=${TAG:-v1}

say() { printf 'recipe: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 2
}
need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || fail "$command is missing; the README beside this file says where to get it"
  done
}
repository() { [ -n "${REPOSITORY:-}" ] || fail "set REPOSITORY: host[:port]/repository"; }

# The one that was pushed, whatever the tag says by now.
reference() {
  [ -s "$results/digest" ] || fail "$results/digest is missing: push first"
  echo "$REPOSITORY@$(cat "$results/digest")"
}

build() {
  if [ -n "${BUILD:-}" ]; then
    bash -euc "$BUILD"
  elif [ -x ./build.sh ]; then
    ./build.sh
  elif [ -z "${WASM:-}" ]; then
    fail "there is no build.sh here: set BUILD to the command that builds the Wasm, or WASM to the file"
  fi
  say "built $(wasm)"
}

wasm() {
  local file=${WASM:-}
  if [ -z "$file" ]; then
    # shellcheck disable=SC2012 # names of our own
    file=$(ls -t ./*.wasm build/*.wasm 2>/dev/null | head -n 1) || true
  fi
  [ -s "$file" ] || fail "there is no Wasm file${file:+ $file}: set WASM to the file that the build makes"
  echo "$file"
}

push() {
  repository
  need oras
  local file
  file=$(wasm)
  mkdir -p "$results"
  # oras names a file by the path that it is given, and takes none that is absolute.
  (cd "$(dirname "$file")" && oras push --format 'go-template={{.digest}}' "$REPOSITORY:$tag" "$(basename "$file"):application/wasm") >"$results/digest"
  say "pushed $(reference)"
}

sign() {
  repository
  need cosign
  if [ -n "${COSIGN_PRIVATE_KEY:-}" ]; then
    # By the key alone: without a transparency log, which is a service elsewhere.
    cosign signing-config create --out "$results/signing-config.json"
    cosign sign -y --key env://COSIGN_PRIVATE_KEY --signing-config "$results/signing-config.json" "$(reference)"
  else
    # By the pipeline's identity, through the public Sigstore: the node trusts it by `vyr trust add --identity`.
    cosign sign -y "$(reference)"
  fi
  say "signed $(reference)"
}

submit() {
  repository
  need vyr jq
  local code=0 id
  # shellcheck disable=SC2086 # words of the user's
  vyr submit --wait --output json --label "commit=${CI_COMMIT_SHA:-${GITHUB_SHA:-local}}" ${SUBMIT_FLAGS:-} "$(reference)" -- ${ARGS:-} \
    >"$results/task.json" || code=$?
  id=$(jq -er '.id' "$results/task.json") || {
    say "the node took no task (exit code $code)"
    [ "$code" -ne 0 ] || code=125
    exit "$code"
  }
  # What can't be had doesn't hide how the task ended.
  vyr logs --stdout "$id" >"$results/stdout.log" || true
  vyr logs --stderr "$id" >"$results/stderr.log" || true
  vyr trace --output json "$id" >"$results/trace.json" || true
  vyr receipt show --bundle "$id" >"$results/receipt.json" || true
  cat "$results/stdout.log"
  cat "$results/stderr.log" >&2
  say "$(jq -r '"task \(.id) \(.status)" + (if .exit_code then ", exit code \(.exit_code)" else "" end) + (if .message then ": \(.message)" else "" end) + (if .next then "; \(.next)" else "" end)' "$results/task.json")"
  exit "$code"
}

[ $# -gt 0 ] || set -- build push sign submit
for step in "$@"; do
  case $step in
  build | push | sign | submit) "$step" ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
  *) fail "there is no step $step: build, push, sign, submit" ;;
  esac
done
