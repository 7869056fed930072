"""Learning a style: coarse (text-encoder LoRA) and fine (Textual Inversion, then UNet LoRA)."""
