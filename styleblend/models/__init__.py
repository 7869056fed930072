"""The networks: one a file, names as in the diffusers checkpoints."""
