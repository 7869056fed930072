"""Adapters as the training scripts of diffusers and PEFT leave them, and the pictures that these networks draw.

    save_with_diffusers.py FOLDER PROMPT NOISE.npy OUT KIND...

For each kind OUT/<kind>/ with the files, and OUT/<kind>.npy with the pictures, drawn by the networks as they were when
they were saved. The numbers are made up, and large enough to be seen. The token is <ink-fine>.

In a process of its own, with requirements.txt of this folder.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_all_state_dict_to_peft, convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

UNET, TEXT = ["to_q", "to_k", "to_v", "to_out.0"], ["q_proj", "k_proj", "v_proj", "out_proj"]
folder, prompt, noise, out, kinds = (sys.argv[1], sys.argv[2], torch.from_numpy(np.load(sys.argv[3])),
                                     Path(sys.argv[4]), sys.argv[5:])


def learned(network):
    """The LoRA of a network with numbers in place of the zeros that a new one has."""
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def with_token(pipeline, vectors):
    """<ink-fine> in the tokenizer and the text encoder, as textual_inversion.py adds it, and the file's content."""
    rows = 0.3 * torch.randn(vectors, pipeline.text_encoder.config.hidden_size)
    pipeline.load_textual_inversion({"<ink-fine>": rows if vectors > 1 else rows[0]})
    return {"<ink-fine>": rows if vectors > 1 else rows[0]}


def save_lora(kind, pipeline):
    """One LoRA in both networks, saved in one of the ways that there are."""
    networks = {"unet": (pipeline.unet, UNET), "text_encoder": (pipeline.text_encoder, TEXT)}
    if kind.startswith("PEFT"):
        for name, (network, targets) in networks.items():
            config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights="gaussian",
                                use_rslora=name == "unet", alpha_pattern={targets[1]: 9},
                                rank_pattern={targets[2]: 2})
            found = get_peft_model(network, config)
            learned(found)
            # as it does by itself, PEFT writes down the whole table that the token was added to
            found.save_pretrained(out / kind / name,
                                  **({} if kind == "PEFT, table" else {"save_embedding_layers": False}))
        return
    # without a note beside the matrices, which diffusers writes nowhere else, it is the rank
    alpha = 6 if kind == "diffusers" else 4
    for network, targets in networks.values():
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=alpha, target_modules=targets,
                                           init_lora_weights="gaussian"), network)
        learned(network)
    layers = {f"{name}_lora_layers": convert_state_dict_to_diffusers(
        get_peft_model_state_dict(network, save_embedding_layers=False)) for name, (network, _) in networks.items()}
    note = (_collate_lora_metadata({name: network for name, (network, _) in networks.items()})
            if kind == "diffusers" else {})
    pipeline.save_lora_weights(out / kind, **layers, **note, safe_serialization=kind != "diffusers, pickle")
    if kind == "kohya":
        file = out / kind / "pytorch_lora_weights.safetensors"
        found = convert_state_dict_to_kohya(convert_all_state_dict_to_peft(load_file(file)))
        file.unlink()
        save_file(found, out / kind / "lora.safetensors")


for number, kind in enumerate(kinds):
    torch.manual_seed(number)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    token = with_token(pipeline, vectors=1 + number % 3)
    save_lora(kind, pipeline)
    if kind == "diffusers, pickle":
        torch.save(token, out / kind / "learned_embeds.bin")
    else:
        save_file(token, out / kind / "learned_embeds.safetensors")
    np.save(out / f"{kind}.npy", pipeline([prompt], height=128, width=128, num_inference_steps=30, guidance_scale=5.0,
                                          latents=noise, output_type="np").images)
