#!/usr/bin/env bash
# Builds a workload, pushes it to a registry, signs it, runs it as a task of a node and keeps what happened. Copy it into your
# own project as ci/recipe.sh; github-actions.yml and gitlab-ci.yml call its steps, and any other pipeline can.
#
#   recipe.sh tools      says which tools are missing; gets `vyr` if VYR_CI_VYR_URL says from where
#   recipe.sh build      makes the Wasm file
#   recipe.sh push       pushes it; OUT/reference has its reference with the digest
#   recipe.sh sign       signs that digest
#   recipe.sh run [OPTION…] [-- ARGUMENT…]   submits it (OPTION: of `vyr submit`), waits, and ends with the task's exit code
#   recipe.sh collect    saves the task's trace and output in OUT
#   recipe.sh all [OPTION…] [-- ARGUMENT…]   all of these; ends with the task's exit code
#
# Variables:
#   VYR_CI_REPOSITORY    where to push: host[:port]/repository                         (push needs it)
#   VYR_CI_TAG           the tag. Default: the commit
#   VYR_CI_USER, VYR_CI_PASSWORD   for the registry, where nobody has logged in before
#   VYR_CI_BUILD         the command that builds. Default: cargo's, for wasm32-wasip2
#   VYR_CI_WASM          the file that it makes. Default: the one under target/wasm32-*/release
#   COSIGN_PRIVATE_KEY, COSIGN_PASSWORD   the key to sign with. Default: the pipeline's own identity
#   VYR_NODE, VYR_TOKEN  the node, and the token that it wants
#   VYR_CI_NODE_CA       a file with the authority to trust for the node
#   VYR_CI_OUT           the folder for what is kept. Default: vyr-ci
#   VYR_CI_VYR_URL, VYR_CI_VYR_SHA256   the tarball of VYR and its checksum, for a machine without `vyr`
set -euo pipefail

out=${VYR_CI_OUT:-vyr-ci}
# Not among what is kept.
downloads=.vyr-ci-tools
PATH=$PWD/$downloads:$PATH

say() { printf 'recipe: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}
need() { [ -n "${!1:-}" ] || fail "$1 is not set: $2"; }
# What an earlier step wrote.
kept() { cat "$out/$1" 2>/dev/null || fail "there is no $out/$1: run the step \`$2\` first"; }
commit() { echo "${GITHUB_SHA:-${CI_COMMIT_SHA:-$(git rev-parse HEAD 2>/dev/null || true)}}"; }

tools() {
  if [ -n "${VYR_CI_VYR_URL:-}" ] && ! command -v vyr >/dev/null; then
    need VYR_CI_VYR_SHA256 "give the checksum of what is downloaded"
    mkdir -p "$downloads"
    curl --fail --silent --show-error --location --retry 3 --output "$downloads/vyr.tar.gz" "$VYR_CI_VYR_URL"
    printf '%s  %s\n' "$VYR_CI_VYR_SHA256" "$downloads/vyr.tar.gz" | sha256sum --check --quiet >&2 ||
      fail "$VYR_CI_VYR_URL is not what VYR_CI_VYR_SHA256 says"
    tar --extract --gzip --file "$downloads/vyr.tar.gz" --directory "$downloads" --strip-components 2 --wildcards '*/bin/vyr'
    rm "$downloads/vyr.tar.gz"
  fi
  local tool how missing=0
  for tool in oras cosign jq vyr; do
    if command -v "$tool" >/dev/null; then
      say "$tool: $(command -v "$tool")"
    else
      case $tool in
      oras) how="see https://oras.land/docs/installation" ;;
      cosign) how="see https://docs.sigstore.dev/cosign/system_config/installation" ;;
      vyr) how="set VYR_CI_VYR_URL and VYR_CI_VYR_SHA256 to a release's tarball and its checksum" ;;
      *) how="run: apt-get install $tool" ;;
      esac
      say "$tool is missing; $how"
      missing=1
    fi
  done
  return $missing
}

wasm() {
  if [ -z "${VYR_CI_WASM:-}" ]; then
    local found=(target/wasm32-*/release/*.wasm)
    if [ ${#found[@]} != 1 ] || [ ! -e "${found[0]}" ]; then
      fail "VYR_CI_WASM is not set: say which file the build makes (looked for: ${found[*]})"
    fi
    VYR_CI_WASM=${found[0]}
  fi
  [ -e "$VYR_CI_WASM" ] || fail "there is no $VYR_CI_WASM: run the step \`build\` first, or say in VYR_CI_WASM what it makes"
  # The node would say so too, but only when it is to run.
  [ "$(head -c 4 "$VYR_CI_WASM" | od -An -tx1 | tr -d ' \n')" = 0061736d ] || fail "$VYR_CI_WASM is no Wasm"
  echo "$VYR_CI_WASM"
}

build() {
  local file
  if [ -n "${VYR_CI_BUILD:-}" ]; then
    bash -euo pipefail -c "$VYR_CI_BUILD" >&2
  else
    ! command -v rustup >/dev/null || rustup target add wasm32-wasip2 >&2
    cargo build --release --target wasm32-wasip2 >&2
  fi
  file=$(wasm)
  say "built $file"
}

push() {
  need VYR_CI_REPOSITORY "say where to push, as host[:port]/repository"
  local file repository tag digest
  file=$(wasm)
  # Registries take no capitals, and names of projects may have some.
  repository=${VYR_CI_REPOSITORY,,}
  tag=${VYR_CI_TAG:-$(commit)}
  if [ -n "${VYR_CI_PASSWORD:-}" ]; then
    printf %s "$VYR_CI_PASSWORD" | oras login --username "${VYR_CI_USER:-ci}" --password-stdin "${repository%%/*}" >&2
  fi
  # By itself oras writes the time of the push, and the digest would be another one each time.
  local notes=(--annotation "org.opencontainers.image.created=$(git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)")
  [ -z "$(commit)" ] || notes+=(--annotation "org.opencontainers.image.revision=$(commit)")
  mkdir -p "$out"
  digest=$(cd "$(dirname "$file")" &&
    oras push --format json "${notes[@]}" "$repository:${tag:-latest}" "$(basename "$file"):application/wasm" | jq -er .digest)
  echo "$repository@$digest" >"$out/reference"
  say "pushed $repository:${tag:-latest}@$digest"
}

sign() {
  local reference
  reference=$(kept reference push)
  if [ -n "${COSIGN_PRIVATE_KEY:-}" ]; then
    # Nothing goes to a public log; cosign 3 wants that in a file.
    local quiet=(--tlog-upload=false)
    if cosign signing-config create --out "$out/signing-config.json" 2>/dev/null; then
      quiet=(--signing-config "$out/signing-config.json")
    fi
    COSIGN_PASSWORD=${COSIGN_PASSWORD:-} cosign sign --yes --key env://COSIGN_PRIVATE_KEY "${quiet[@]}" "$reference" >&2
    rm -f "$out/signing-config.json"
  elif [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}${SIGSTORE_ID_TOKEN:-}" ]; then
    cosign sign --yes "$reference" >&2
  else
    fail "nothing to sign with: set COSIGN_PRIVATE_KEY, or let the job have an identity (\`id-token: write\`, \`id_tokens\`)"
  fi
  say "signed $reference"
}

# What `vyr` has to know of the node beside its own variables.
node=(${VYR_CI_NODE_CA:+--node-ca "$VYR_CI_NODE_CA"})

# Runs a program; a job that is cancelled ends it first, and then this one.
attended() {
  local child code=0
  "$@" </dev/null &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' INT TERM
  wait "$child" || code=$?
  # The wait ends with the signal, the program when it is ready.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  trap - INT TERM
  return "$code"
}

run() {
  local reference code=0 key
  local options=() arguments=()
  while [ $# -gt 0 ]; do
    if [ "$1" = -- ]; then
      shift
      arguments=("$@")
      break
    fi
    options+=("$1")
    shift
  done
  reference=$(kept reference push)
  # The same job that sends it again, after a lost connection, gets the same task.
  key=${CI_JOB_ID:-${GITHUB_RUN_ID:+$GITHUB_RUN_ID/${GITHUB_RUN_ATTEMPT:-1}/${GITHUB_JOB:-}}}
  [ -z "$key" ] || options+=(--key "ci/${key:0:100}")
  [ -z "$(commit)" ] || options+=(--label "revision=$(commit)")
  rm -f "$out/task.json" "$out/trace.json" "$out/logs.jsonl"
  # What the guest writes is seen here while it runs; stdout has the task as it ended. Told to end, it cancels the task.
  attended vyr submit "${node[@]}" --logs --output json "${options[@]}" "$reference" -- "${arguments[@]}" >"$out/task.json" || code=$?
  if [ -s "$out/task.json" ]; then
    say "$(jq -r '"task \(.id) \(.status)" + (if .message then ": \(.message)" else "" end) + (if .next then "; \(.next)" else "" end)' "$out/task.json")"
  else
    say "there is no task: the node did not take it"
    rm -f "$out/task.json"
  fi
  return "$code"
}

collect() {
  local id status=0
  if [ ! -s "$out/task.json" ]; then
    say "no task, so there is nothing to collect"
    return 0
  fi
  id=$(jq -er .id "$out/task.json")
  # As OTLP's JSON, which collectors take.
  vyr trace "${node[@]}" --output json "$id" >"$out/trace.json" || status=$?
  vyr logs "${node[@]}" --output jsonl "$id" >"$out/logs.jsonl" || status=$?
  if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    jq -r '"| task | status | exit code | took | artifact |", "| --- | --- | --- | --- | --- |",
      "| `\(.id)` | \(.status) | \(.exit_code // "-") | \((.run_us // 0) / 1000) ms | `\(.reference)` |"' "$out/task.json" >>"$GITHUB_STEP_SUMMARY"
  fi
  say "saved $out/task.json, trace.json, logs.jsonl"
  return $status
}

all() {
  local code=0
  "$0" tools
  "$0" build
  "$0" push
  "$0" sign
  attended "$0" run "$@" || code=$?
  "$0" collect || say "not everything could be collected"
  return "$code"
}

step=${1:-}
[ $# = 0 ] || shift
case $step in
tools | build | push | sign | collect)
  [ $# = 0 ] || fail "the step \`$step\` takes no arguments"
  "$step"
  ;;
run | all) "$step" "$@" ;;
-h | --help | help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
*) fail "unknown step \`$step\`; see recipe.sh --help" ;;
esac
