#!/usr/bin/env bash
# Draws all prompts of all styles with every GPU, or with WORKERS CPU workers: each takes its share.
#   bash scripts/test.sh [--config configs/sd21.yaml] [any option of test.py]
source "$(dirname "${BASH_SOURCE[0]}")/workers.sh"
run_workers "$PYTHON" test.py "$@" --shard {shard}
