"""The machine: what Jittor needs of it, the one place that imports Jittor, signals, precision."""
