#!/usr/bin/env bash
# Two hosts (or more), one process on each with all of its GPUs, without any scheduler.
#
# On every host, with the same COORDINATOR (host:port of host 0) and WORKDIR (on a shared file system):
#
#   COORDINATOR=node0:9876 NUM_PROCESSES=2 PROCESS_ID=0 docs/launch/two_hosts.sh --config=configs/cs_cvd.py --workdir=W
#   COORDINATOR=node0:9876 NUM_PROCESSES=2 PROCESS_ID=1 docs/launch/two_hosts.sh --config=configs/cs_cvd.py --workdir=W
#
# Without PROCESS_ID all NUM_PROCESSES are started here, which is for trying things out on CPUs:
#
#   docs/launch/two_hosts.sh --config=configs/demo.py --workdir=runs/demo
set -euo pipefail

NUM_PROCESSES=${NUM_PROCESSES:-2}
PYTHON=${PYTHON:-python}

start() { # PROCESS_ID FLAGS...
  local id=$1
  shift
  "$PYTHON" -m usss_jax.main --multihost --coordinator="$COORDINATOR" --num_processes="$NUM_PROCESSES" \
    --process_id="$id" "$@"
}

if [[ -n ${PROCESS_ID:-} ]]; then
  : "${COORDINATOR:?give COORDINATOR=HOST:PORT of process 0}"
  start "$PROCESS_ID" "$@"
  exit
fi

export JAX_PLATFORMS=cpu
COORDINATOR=${COORDINATOR:-localhost:$((20000 + RANDOM % 10000))}
processes=()
for ((id = 0; id < NUM_PROCESSES; id++)); do
  start "$id" "$@" &
  processes+=("$!")
done
trap 'kill "${processes[@]}" 2>/dev/null || true' INT TERM
code=0
for process in "${processes[@]}"; do
  wait "$process" || code=$?
done
exit "$code"
