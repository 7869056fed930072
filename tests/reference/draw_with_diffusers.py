"""Draw with diffusers from given first noise: draw_with_diffusers.py FOLDER JOBS.json OUT

A job: {"name", "prompts", "noise": file.npy, "lora": file or null, "embeddings": {file: token, or null for the file's
own}}. Its pictures are OUT/<name>.npy; where diffusers refuses the adapters OUT/<name>.txt says what it said. "parts":
{tensor: token}: of a file that it refuses as a whole, the LoRA's tensors, and these as embeddings.

In a process of its own, with requirements.txt of this folder.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

folder, jobs, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
for job in jobs:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    try:
        if job.get("parts"):
            tensors = load_file(job["lora"])
            pipeline.load_lora_weights({key: value for key, value in tensors.items() if "lora" in key})
            for key, token in job["parts"].items():
                pipeline.load_textual_inversion(tensors[key], token=token)
        elif job.get("lora"):
            pipeline.load_lora_weights(job["lora"])
        for file, token in job.get("embeddings", {}).items():
            pipeline.load_textual_inversion(file, token=token)
    except ValueError as error:
        (out / f"{job['name']}.txt").write_text(str(error))
        continue
    pictures = pipeline(job["prompts"], height=128, width=128, num_inference_steps=30, guidance_scale=5.0,
                        latents=torch.from_numpy(np.load(job["noise"])), output_type="np").images
    np.save(out / f"{job['name']}.npy", pictures)
