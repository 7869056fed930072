# Starts one command on every GPU, or on WORKERS (default 1) groups of CPU cores. Sourced by the scripts beside it.
#
#   CUDA_VISIBLE_DEVICES=0,2   only these GPUs        CUDA_VISIBLE_DEVICES= or -1   none: CPU workers
#   WORKERS=4                  CPU workers, where no GPU is used
#   PYTHON=...                 the interpreter: default .venv/bin/python if there, else python3

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi

# Prints one GPU a line; nothing without GPUs.
list_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    # CUDA itself ignores -1 and what follows it; names such as GPU-1234... are allowed
    printf '%s' "$CUDA_VISIBLE_DEVICES" | tr -d ' ' | tr ',' '\n' | sed '/^-/,$d; /^$/d; $a\'
  elif command -v nvidia-smi >/dev/null; then
    local found
    found=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) || return 0
    printf '%s\n' "$found" | grep -E '^[0-9]+$'  # some of its errors come on stdout
  else  # as in many containers
    "$PYTHON" -c 'from styleblend.machine.cards import cards; [print(n) for n in range(len(cards()))]' 2>/dev/null
  fi
}

# Why Jittor computes on the CPU although there are GPUs; nothing where it will use them.
why_cpu() {
  "$PYTHON" -c 'import sys; from styleblend.machine.environment import cpu_reason; sys.exit(cpu_reason())' \
    2>&1 >/dev/null | tail -n 1
}

# Copies its input, with "$1" before each line; progress bars, which redraw one line, become lines.
label_lines() {
  trap '' INT TERM HUP  # it lives until its input ends: a worker that is told to stop has something to say
  stdbuf -oL tr '\r' '\n' | sed -u "s/^/$1/"
}

# What a signal to the script does. Only the workers themselves get TERM, which they take at the end of their step: a
# compiler that they have started would take it at once, and the worker would fail. Asked again, they stop at once.
stop_workers() {
  [ "$stopped" -ne 0 ] || stopped=$1
  kill -TERM "${pids[@]}" 2>/dev/null
}

# Waits for the process $1, also through signals to the script; its exit code.
wait_for() {
  local status=0
  wait "$1" || status=$?
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
  return "$status"
}

# start_worker I GPU COMMAND...   Worker I of n, on this GPU; without a name on the CPU. Uses run_workers' variables.
start_worker() {
  local i=$1 gpu=$2 label="worker $1 of $n" input=2
  shift 2
  [ -z "$gpu" ] || label="$label (GPU $gpu)"
  labels+=("$label")
  if [ "$n" -gt 1 ]; then
    mkfifo "$folder/pipe"
    label_lines "[$i of $n] " <"$folder/pipe" &
    filters+=($!)
    exec {input}>"$folder/pipe"
    rm "$folder/pipe"
  fi
  (
    if [ -n "$gpu" ]; then
      export CUDA_VISIBLE_DEVICES="$gpu"
    elif [ "$n" -gt 1 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
      # Thread pools that together want more cores than there are slow each other down many times.
      cores=$(nproc)
      export OMP_NUM_THREADS=$((cores > n ? cores / n : 1))
    fi
    set -- "${@//\{shard\}/$(((share - 1) * n + i))/$((total * n))}"
    [ "$n" -gt 1 ] || exec "$@"
    export TQDM_MININTERVAL="${TQDM_MININTERVAL:-10}"  # lines of their own, so fewer of them
    exec "$@" >&"$input" 2>&1
  ) </dev/null &
  pids+=($!)
  [ "$n" -eq 1 ] || exec {input}>&-
}

# run_round COMMAND...   Starts the workers that `todo` names on the GPUs of `on`, and waits for them. Then `failed` has
# the numbers of those that failed, `good` the GPUs of those that did not, `codes` an exit code for each of `failed`.
run_round() {
  local k status
  pids=() labels=() filters=() failed=() good=() codes=()
  set -m  # each worker in a process group of its own, which Ctrl-C in a terminal does not reach
  for ((k = 0; k < ${#todo[@]} && stopped == 0; k++)); do start_worker "${todo[k]}" "${on[k]:-}" "$@"; done
  set +m
  # a signal that came while the last worker was starting has missed it
  [ "$stopped" -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null

  for ((k = 0; k < ${#pids[@]}; k++)); do
    status=0
    wait_for "${pids[k]}" || status=$?
    kill -TERM -- "-${pids[k]}" 2>/dev/null  # what a worker that died has left behind
    if [ "$status" -eq 0 ]; then
      good+=("${on[k]:-}")
    elif [ "$stopped" -eq 0 ]; then
      echo "${labels[k]} failed with exit code $status" >&2
      failed+=("${todo[k]}") codes+=("$status")
    fi
  done
  for k in "${filters[@]}"; do wait_for "$k"; done
}

# run_workers COMMAND...   In the command, {shard} becomes I/N: of N equal parts of the whole, or of the part SHARE=2/4.
# The share of a GPU that fails goes to those that did not: what it has finished is there. Returns, once all workers
# have ended: 0 if all is done, else the exit code of the first that failed (it names all that failed), 130 or 143 if
# the script was stopped.
run_workers() {
  local code=0 i n reason share total folder gpus todo on later failed=() good=() codes=()
  mapfile -t gpus < <(list_gpus)
  if [ "${#gpus[@]}" -gt 0 ]; then
    reason=$(why_cpu)
    if [ -n "$reason" ]; then
      echo "Jittor cannot use the GPUs (${reason}): CPU workers are started." >&2
      gpus=()
    fi
  fi
  n=${#gpus[@]}
  [ "$n" -gt 0 ] || n=${WORKERS:-1}
  case "$n" in
    ''|*[!0-9]*|0) echo "WORKERS=$n is not a number of workers: use WORKERS=1 or more." >&2; return 2 ;;
  esac
  share=${SHARE:-1/1} total=${share#*/} share=${share%/*}
  folder=$(mktemp -d) || return 2

  pids=() stopped=0
  trap 'stop_workers 129' HUP
  trap 'stop_workers 130' INT
  trap 'stop_workers 143' TERM
  mapfile -t todo < <(seq "$n")
  on=("${gpus[@]}")
  run_round "$@"
  # 2: something that the user should mend, on every GPU
  while [ "${#gpus[@]}" -gt 0 ] && [ "${#failed[@]}" -gt 0 ] && [ "${#good[@]}" -gt 0 ] && [ "$stopped" -eq 0 ] &&
      [ "${codes[0]}" -ne 2 ]; do
    todo=("${failed[@]:0:${#good[@]}}") later=("${failed[@]:${#good[@]}}") on=("${good[@]}")
    for ((i = 0; i < ${#todo[@]}; i++)); do echo "the share of worker ${todo[i]} of $n goes to GPU ${on[i]}" >&2; done
    reason=${codes[0]}
    run_round "$@"
    [ "${#failed[@]}" -eq 0 ] || { codes=("$reason"); break; }  # not the card's fault
    failed=("${later[@]}") codes=("$reason")
  done
  rm -r "$folder"
  trap - HUP INT TERM
  [ "${#failed[@]}" -eq 0 ] || code=${codes[0]}
  [ "$stopped" -eq 0 ] || code=$stopped
  return "$code"
}
