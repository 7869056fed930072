#!/usr/bin/env bash
# Learns the fine style (texture, colour) of one, several or all styles of a config.
#   bash scripts/train_fine_style.sh [--config configs/mini.yaml] [--styles 00,01]
# One worker a GPU, or WORKERS on the CPU. All get the same list; a worker claims a style with a lock file before it
# starts on it, so that a free worker takes the next one.
source "$(dirname "${BASH_SOURCE[0]}")/workers.sh"
run_workers "$PYTHON" -m styleblend train fine --share "$@"
