#!/usr/bin/env bash
# Draws all prompts of all styles with every GPU, or with WORKERS CPU workers: each takes its share.
#   bash scripts/test.sh [--config configs/sd21.yaml] [any option of test.py]
# --shard 2/4 is this machine's part of the work; its workers share that part.
source "$(dirname "${BASH_SOURCE[0]}")/workers.sh"
options=() SHARE=1/1
while [ $# -gt 0 ]; do
  case "$1" in
    --shard) SHARE=${2:-}; shift ;;
    --shard=*) SHARE=${1#*=} ;;
    *) options+=("$1") ;;
  esac
  shift
done
# test.py would name the share of a worker, not what was typed
if ! [[ $SHARE =~ ^([1-9][0-9]*)/([1-9][0-9]*)$ && ${BASH_REMATCH[1]} -le ${BASH_REMATCH[2]} ]]; then
  echo "--shard $SHARE is not a part of the work: use --shard 2/4 for the second of four." >&2
  exit 2
fi
run_workers "$PYTHON" test.py "${options[@]}" --shard {shard}
