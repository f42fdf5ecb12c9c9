# What is done in an environment, the same in all of them. Sourced by the scripts that the runner sends there, which set what they
# need; `sh` is Debian's on this machine and busybox's in a guest.
# shellcheck shell=sh disable=SC2154
set -eu

# fresh NAME: a data folder with nothing in it but whom it trusts, and whose certificates.
fresh() {
  VYR_HOME=$HOME/$1
  export VYR_HOME
  rm -rf "$VYR_HOME"
  mkdir -p "$VYR_HOME"
  printf '[registry]\nca-files = ["%s/keys/ca.pem"]\n' "$HOME" >"$VYR_HOME/config.toml"
  vyr trust add --key "$HOME/keys/signer.pub" >/dev/null
  [ ! -e "$HOME/keys/compiler.pub" ] || vyr trust add --compiled --key "$HOME/keys/compiler.pub" >/dev/null
}

# measured COMMAND…: runs it, its output in out.txt.
measured() {
  rm -f took.json
  measure took.json "$@" >out.txt 2>err.txt || {
    code=$?
    cat err.txt >&2
    return "$code"
  }
}

# result FILE…: what the runner reads: what the command took, what VYR says of it, and the digests of what it wrote.
result() {
  printf '{"took":%s,"report":%s,"outputs":{"stdout":"%s"' "$(cat took.json)" "$(cat report.json 2>/dev/null || echo null)" "$(sha256sum <out.txt | cut -c 1-64)"
  for file; do printf ',"%s":"%s"' "${file##*/}" "$(sha256sum <"$file" | cut -c 1-64)"; done
  printf '}}\n'
  rm -f report.json
}

# start_node ARG…: `vyr serve` in the background, until it listens.
start_node() {
  rm -f node.address
  setsid vyr serve "$@" --address-file node.address >>serve.log 2>&1 </dev/null &
  echo $! >serve.pid
  tries=0
  until [ -s node.address ]; do
    tries=$((tries + 1))
    kill -0 "$(cat serve.pid)" 2>/dev/null && [ "$tries" -lt 600 ] || { tail -n 5 serve.log >&2; return 1; }
    sleep 0.05
  done
}

stop_node() {
  kill "$(cat serve.pid)" 2>/dev/null || true
  tries=0
  while kill -0 "$(cat serve.pid)" 2>/dev/null && [ "$tries" -lt 400 ]; do
    tries=$((tries + 1))
    sleep 0.05
  done
}

# run_on COMMAND…: in the background, again and again until it succeeds; its report, going.json, is done.json then.
run_on() {
  rm -f done.json
  # shellcheck disable=SC2016 # It is the inner shell's.
  setsid sh -c 'until "$@"; do sleep 1; done; sync; mv going.json done.json; sync' sh "$@" >>collect.log 2>&1 </dev/null &
}

# sync_on STATE: pushes what is sealed, again and again.
sync_on() {
  # shellcheck disable=SC2016
  setsid sh -c 'while [ ! -e stop ]; do vyr state sync "$1"; sleep 2; done' sh "$1" >>sync.log 2>&1 </dev/null &
}

# memory: what all processes of VYR hold now, in KiB; each page that they share counts for each of them.
memory() {
  for process in /proc/[0-9]*; do
    case $(readlink "$process/exe" 2>/dev/null) in */vyr) cat "$process/status" 2>/dev/null || : ;; esac
  done | awk '/^VmRSS/ { now += $2 } END { printf "%d", now }'
}
