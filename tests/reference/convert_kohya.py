"""A LoRA with kohya's names as the loader of safetensors and diffusers' converter read it.

    convert_kohya.py IN.safetensors OUT.safetensors

The converter fails when a key is left over. In a process of its own, with requirements.txt of this folder.
"""
import sys

import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from safetensors.torch import load_file, save_file

tensors = load_file(sys.argv[1])
converted, alphas = _convert_non_diffusers_lora_to_diffusers(tensors)
assert not tensors
save_file({**converted, **{key: torch.tensor(value) for key, value in alphas.items()}}, sys.argv[2])
