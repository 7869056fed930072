"""Draw one prompt with diffusers from a folder and given first noise: draw_with_diffusers.py FOLDER PROMPT NOISE.npy OUT.npy [LORA EMBEDDING]

The embedding is the token <style>.

In a process of its own, with requirements.txt of this folder.
"""
import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

folder, prompt, noise, out, *adapters = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
if adapters:
    pipeline.load_lora_weights(adapters[0])
    pipeline.load_textual_inversion(adapters[1], token="<style>")
pipeline.set_progress_bar_config(disable=True)
pictures = pipeline(prompt, height=128, width=128, num_inference_steps=30, guidance_scale=5.0, latents=torch.from_numpy(np.load(noise)), output_type="np").images
np.save(out, pictures)
