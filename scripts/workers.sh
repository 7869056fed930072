# Starts one command on every GPU, or on WORKERS (default 1) groups of CPU cores. Sourced by the scripts beside it.
#
#   CUDA_VISIBLE_DEVICES=0,2   only these GPUs        CUDA_VISIBLE_DEVICES=   none: CPU workers
#   WORKERS=4                  CPU workers, where no GPU is used
#   PYTHON=...                 the interpreter: default .venv/bin/python if there, else python3

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi

# Prints one GPU index a line; nothing without GPUs.
list_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | sed '/^$/d; $a\'
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
  fi
}

stop_workers() {
  trap - INT TERM
  local pid
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null; done
  wait
  exit "$1"
}

# run_workers COMMAND...   In the command, {shard} becomes I/N (the first worker is 1/N).
# Returns 0 if all workers succeeded, else the exit code of the first that failed; names all that failed.
run_workers() {
  local gpus label status code=0 i n
  mapfile -t gpus < <(list_gpus)
  n=${#gpus[@]}
  [ "$n" -gt 0 ] || n=${WORKERS:-1}
  case "$n" in
    ''|*[!0-9]*|0) echo "WORKERS=$n is not a number of workers: use WORKERS=1 or more." >&2; return 2 ;;
  esac

  pids=()
  local labels=()
  trap 'stop_workers 130' INT
  trap 'stop_workers 143' TERM
  set -m  # each worker in its own process group, so that Ctrl-C ends it together with its children
  for ((i = 1; i <= n; i++)); do
    label="worker $i of $n"
    (
      set +m -o pipefail
      if [ "${#gpus[@]}" -gt 0 ]; then
        export CUDA_VISIBLE_DEVICES="${gpus[i - 1]}"
      elif [ "$n" -gt 1 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
        # Thread pools that together want more cores than there are slow each other down many times.
        cores=$(nproc)
        export OMP_NUM_THREADS=$((cores > n ? cores / n : 1))
      fi
      if [ "$n" -eq 1 ]; then exec "${@//\{shard\}/1/1}"; fi
      # Progress bars redraw one line; of several workers each gets its own lines, and fewer of them.
      export TQDM_MININTERVAL="${TQDM_MININTERVAL:-10}"
      "${@//\{shard\}/$i/$n}" 2>&1 | stdbuf -oL tr '\r' '\n' | sed -u "s/^/[$i of $n] /"
    ) </dev/null &
    pids+=($!)
    [ "${#gpus[@]}" -gt 0 ] && label="$label (GPU ${gpus[i - 1]})"
    labels+=("$label")
  done
  set +m

  for ((i = 0; i < n; i++)); do
    status=0
    wait "${pids[i]}" || status=$?
    if [ "$status" -ne 0 ]; then
      echo "${labels[i]} failed with exit code $status" >&2
      [ "$code" -ne 0 ] || code=$status
    fi
  done
  trap - INT TERM
  return "$code"
}
