"""Writes what PyTorch, diffusers, transformers and peft compute, for tests/models/test_parity.py to compare with.

    python tests/reference/make_references.py              writes tests/data/*.npz (small networks)
    python tests/reference/make_references.py --full OUT   writes the output of the UNet of Stable Diffusion 2.1 (4 GB
                                                           of weights, all drawn here) to OUT; `--small` takes the
                                                           small UNet's sizes instead

Needs requirements.txt of this folder, and no Jittor: the two crash in one process.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets import unet_2d_blocks as blocks
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig
from transformers.models.clip import modeling_clip as clip

import seeded
from scheduler_references import make_schedulers

DATA = Path(__file__).parent.parent / "data"
TOWERS = {transformers.CLIPTextModel: "text_model.", transformers.CLIPVisionModel: "vision_model."}


def inputs(case: str, *shapes) -> list:
    return [torch.from_numpy(seeded.values(f"{case}/input{i}", shape)) for i, shape in enumerate(shapes)]


def filled(module: torch.nn.Module, case: str) -> torch.nn.Module:
    """The module in evaluation mode, with the weights of `case`."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            for kind, prefix in TOWERS.items():
                if isinstance(module, kind) and not name.startswith(prefix):
                    name = prefix + name  # transformers 5 leaves it out, the files of SD 2.1 and of CLIP have it
            parameter.copy_(torch.from_numpy(seeded.weight(f"{case}/{name}", tuple(parameter.shape))))
    return module.eval()


def text_config() -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(**seeded.TEXT, attn_implementation="eager")


def causal_mask(length: int) -> torch.Tensor:
    return torch.full((1, 1, length, length), torch.finfo(torch.float32).min).triu(1)


# ---------------------------------------------------------------- blocks

BLOCKS = {}


def block(*shapes):
    """Registers a function (case, *inputs) -> output or outputs under its own name; inputs have these shapes."""
    def register(function):
        BLOCKS[function.__name__] = (function, shapes)
        return function
    return register


@block((2, 32, 5, 6))
def group_norm(case, x):
    return filled(torch.nn.GroupNorm(8, 32, eps=1e-5), case)(x * 0.1 + 3)


@block((2, 7, 32))
def layer_norm(case, x):
    return filled(torch.nn.LayerNorm(32), case)(x * 0.1 + 3)


@block()
def timesteps(case):
    return Timesteps(320, flip_sin_to_cos=True, downscale_freq_shift=0)(torch.tensor([0.0, 1.0, 33.3, 500.0, 999.0]))


@block((3, 16))
def timestep_embedding(case, x):
    return filled(TimestepEmbedding(16, 64), case)(x)


@block((2, 16, 6, 5), (2, 64))
def resnet_wider(case, x, time):
    return filled(ResnetBlock2D(in_channels=16, out_channels=32, temb_channels=64, groups=8, eps=1e-5), case)(x, time)


@block((2, 32, 6, 5), (2, 64))
def resnet_same_width(case, x, time):
    return filled(ResnetBlock2D(in_channels=32, out_channels=32, temb_channels=64, groups=8, eps=1e-5), case)(x, time)


@block((2, 32, 6, 5))
def resnet_without_time(case, x):
    return filled(ResnetBlock2D(in_channels=32, out_channels=16, temb_channels=None, groups=8, eps=1e-6), case)(x, None)


@block((2, 7, 32))
def geglu(case, x):
    return filled(GEGLU(32, 128), case)(x)


@block((2, 7, 32))
def feed_forward(case, x):
    return filled(FeedForward(32, activation_fn="geglu"), case)(x)


@block((2, 30, 32))
def self_attention(case, x):
    return filled(Attention(query_dim=32, heads=2, dim_head=16, bias=False), case)(x)


@block((2, 30, 32), (2, 77, 24))
def cross_attention(case, x, text):
    return filled(Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8, bias=False), case)(
        x, encoder_hidden_states=text)


@block((2, 30, 32), (2, 77, 32))
def transformer_block(case, x, text):
    return filled(BasicTransformerBlock(32, 2, 16, cross_attention_dim=32, activation_fn="geglu"), case)(
        x, encoder_hidden_states=text)


@block((2, 32, 6, 5), (2, 77, 32))
def transformer(case, x, text):
    module = Transformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=32, num_layers=1,
                                cross_attention_dim=32, norm_num_groups=8, use_linear_projection=True)
    return filled(module, case)(x, encoder_hidden_states=text, return_dict=False)[0]


@block((2, 32, 6, 8))
def downsample(case, x):
    return filled(Downsample2D(32, use_conv=True, padding=1, name="op"), case)(x)


@block((2, 32, 7, 5))
def downsample_odd(case, x):
    return filled(Downsample2D(32, use_conv=True, padding=1, name="op"), case)(x)


@block((2, 32, 3, 4))
def upsample(case, x):
    return filled(Upsample2D(32, use_conv=True), case)(x)


@block((2, 32, 5, 7))
def upsample_odd(case, x):
    return filled(Upsample2D(32, use_conv=True), case)(x, output_size=(9, 13))


def up_down(kind, **sizes):
    attention = (dict(num_attention_heads=2, cross_attention_dim=32, use_linear_projection=True)
                 if "CrossAttn" in kind.__name__ else {})
    return kind(temb_channels=64, resnet_groups=8, resnet_eps=1e-5, **attention, **sizes)


@block((2, 16, 6, 8), (2, 64), (2, 77, 32))
def down_block(case, x, time, text):
    module = filled(up_down(blocks.CrossAttnDownBlock2D, in_channels=16, out_channels=32, num_layers=2), case)
    x, skips = module(x, time, encoder_hidden_states=text)
    return (x, *skips)


@block((2, 16, 6, 8), (2, 64))
def down_block_last(case, x, time):
    x, skips = filled(up_down(blocks.DownBlock2D, in_channels=16, out_channels=32, num_layers=2, add_downsample=False),
                      case)(x, time)
    return (x, *skips)


@block((2, 32, 3, 4), (2, 64), (2, 77, 32))
def mid_block(case, x, time, text):
    return filled(up_down(blocks.UNetMidBlock2DCrossAttn, in_channels=32), case)(x, time, encoder_hidden_states=text)


@block((2, 32, 3, 4), (2, 64), (2, 77, 32), (2, 16, 3, 4), (2, 32, 3, 4), (2, 32, 3, 4))
def up_block(case, x, time, text, *skips):
    module = filled(up_down(blocks.CrossAttnUpBlock2D, in_channels=16, out_channels=32, prev_output_channel=32,
                            num_layers=3), case)
    return module(x, skips, time, encoder_hidden_states=text, upsample_size=(5, 8))


@block((2, 32, 3, 4), (2, 64), (2, 16, 3, 4), (2, 32, 3, 4), (2, 32, 3, 4))
def up_block_plain(case, x, time, *skips):
    return filled(up_down(blocks.UpBlock2D, in_channels=16, out_channels=32, prev_output_channel=32, num_layers=3),
                  case)(x, skips, time)


@block((1, 16, 6, 8))
def vae_down_block(case, x):
    return filled(blocks.DownEncoderBlock2D(16, 32, num_layers=2, resnet_groups=8, resnet_eps=1e-6,
                                            downsample_padding=0), case)(x)


@block((1, 32, 3, 4))
def vae_up_block(case, x):
    return filled(blocks.UpDecoderBlock2D(32, 16, num_layers=3, resnet_groups=8, resnet_eps=1e-6), case)(x)


@block((2, 32, 3, 4))
def vae_attention(case, x):
    module = Attention(32, heads=1, dim_head=32, eps=1e-6, norm_num_groups=8, residual_connection=True, bias=True,
                       upcast_softmax=True, _from_deprecated_attn_block=True)
    return filled(module, case)(x)


@block((2, 32, 3, 4))
def vae_mid_block(case, x):
    return filled(blocks.UNetMidBlock2D(in_channels=32, temb_channels=None, resnet_eps=1e-6, resnet_groups=8,
                                        attention_head_dim=32), case)(x)


@block()
def text_embeddings(case):
    return filled(clip.CLIPTextEmbeddings(text_config()), case)(
        input_ids=torch.from_numpy(seeded.token_ids(f"{case}/ids", 2, seeded.TEXT["vocab_size"])))


@block((2, 77, 32))
def text_attention(case, x):
    return filled(clip.CLIPAttention(text_config()), case)(x, attention_mask=causal_mask(77))[0]


@block((2, 77, 32))
def text_mlp(case, x):
    return filled(clip.CLIPMLP(text_config()), case)(x)


@block((2, 77, 32))
def text_layer(case, x):
    out = filled(clip.CLIPEncoderLayer(text_config()), case)(x, attention_mask=causal_mask(77))
    return out[0] if isinstance(out, tuple) else out


def make_blocks() -> dict:
    found = {"seeded": seeded.values("check", (16,))}
    for case, (function, shapes) in BLOCKS.items():
        out = function(case, *inputs(case, *shapes))
        for i, array in enumerate(out if isinstance(out, tuple) else (out,)):
            found[f"{case}/{i}"] = array.numpy()
    return found


# ---------------------------------------------------------------- whole networks

def unet(sizes=seeded.UNET) -> torch.nn.Module:
    with torch.device("meta"):  # no time is spent on weights that are replaced
        module = diffusers.UNet2DConditionModel(**sizes)
    return filled(module.to_empty(device="cpu"), "unet")


def make_networks() -> dict:
    found, network = {}, unet()
    found["unet/parameters"] = np.array(sum(p.numel() for p in network.parameters()))
    for size, (rows, height, width) in seeded.UNET_SIZES.items():
        latents, text = inputs(f"unet_{size}", (rows, 4, height, width), (rows, 77, 32))
        found[f"unet/{size}"] = network(latents, torch.tensor(seeded.UNET_TIMES[:rows]), text).sample.numpy()

    kinds = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    vae = filled(diffusers.AutoencoderKL(**seeded.VAE, **kinds), "vae")
    height, width = seeded.PICTURE
    picture, latents = inputs("vae", (1, 3, height, width), (1, 4, height // 8, width // 8))
    posterior = vae.encode(picture).latent_dist
    found.update({"vae/parameters": np.array(sum(p.numel() for p in vae.parameters())),
                  "vae/mean": posterior.mean.numpy(), "vae/logvar": posterior.logvar.numpy(),
                  "vae/decoded": vae.decode(latents).sample.numpy()})

    text = filled(transformers.CLIPTextModel(text_config()), "text")
    ids = torch.from_numpy(seeded.token_ids("text/ids", 2, seeded.TEXT["vocab_size"]))
    out = text(ids, output_hidden_states=True)
    found.update({"text/parameters": np.array(sum(p.numel() for p in text.parameters())),
                  "text/last": out.last_hidden_state.numpy(), "text/penultimate": out.hidden_states[-2].numpy()})
    return found


def make_vision() -> dict:
    tower = filled(transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**seeded.VISION, attn_implementation="eager")), "vision")
    pictures, = inputs("vision", (2, 3, seeded.VISION["image_size"], seeded.VISION["image_size"]))
    return {"parameters": np.array(sum(p.numel() for p in tower.parameters())),
            "last": tower(pictures).last_hidden_state.numpy()}


# ---------------------------------------------------------------- gradients

def add_lora(network, layers: list) -> dict:
    """A LoRA by peft on all layers of these names; its parameters by the names that a diffusers file gives them."""
    network.add_adapter(LoraConfig(r=seeded.RANK, lora_alpha=seeded.RANK, target_modules=layers,
                                   init_lora_weights=False))
    found = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            name = name.replace(".lora_A.default", ".lora.down").replace(".lora_B.default", ".lora.up")
            if isinstance(network, transformers.CLIPTextModel) and not name.startswith("text_model."):
                name = f"text_model.{name}"
            parameter.data.copy_(torch.from_numpy(seeded.weight(f"lora/{name}", tuple(parameter.shape))))
            found[name] = parameter
    return found


def make_gradients() -> dict:
    """One training loss, differentiated by both LoRAs and by the row of a placeholder token."""
    rows, vocabulary = len(seeded.GRADIENT_TIMES), seeded.TEXT["vocab_size"]
    network, text = unet(), filled(transformers.CLIPTextModel(text_config()), "text")
    text.resize_token_embeddings(vocabulary + 1, mean_resizing=False)
    table = text.get_input_embeddings().weight
    table.data[vocabulary] = torch.from_numpy(seeded.values("gradients/token", (seeded.TEXT["hidden_size"],)))
    unet_lora = add_lora(network, ["to_q", "to_k", "to_v", "to_out.0"])
    text_lora = add_lora(text, ["q_proj", "k_proj", "v_proj", "out_proj"])
    table.requires_grad_(True)

    ids = seeded.token_ids("gradients/ids", rows, vocabulary)
    ids[:, 5] = vocabulary
    x0, eps = inputs("gradients", (rows, 4, 16, 16), (rows, 4, 16, 16))
    t = torch.tensor(seeded.GRADIENT_TIMES)
    scheduler = diffusers.DDIMScheduler(**seeded.SCHEDULE, prediction_type="v_prediction")
    with torch.enable_grad():
        states = text(torch.from_numpy(ids)).last_hidden_state
        output = network(scheduler.add_noise(x0, eps, t), t, states).sample
        loss = torch.nn.functional.mse_loss(output, scheduler.get_velocity(x0, eps, t))
        loss.backward()
    found = {"loss": np.array(loss.item(), np.float32), "token": table.grad[vocabulary].numpy()}
    for part, parameters in (("unet", unet_lora), ("text", text_lora)):
        found[f"{part}/names"] = np.array(sorted(parameters))
        found[f"{part}/gradients"] = np.concatenate([parameters[name].grad.numpy().ravel()
                                                     for name in sorted(parameters)])
    return found


# ---------------------------------------------------------------- full size

def make_full(small: bool) -> dict:
    network = unet(seeded.UNET if small else seeded.SD21_UNET)
    width = (seeded.UNET if small else seeded.SD21_UNET)["cross_attention_dim"]
    latents, text = inputs("full", seeded.FULL_LATENTS, (len(seeded.FULL_TIMES), seeded.FULL_TOKENS, width))
    return {"parameters": np.array(sum(p.numel() for p in network.parameters())),
            "output": network(latents, torch.tensor(seeded.FULL_TIMES), text).sample.numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", type=Path, metavar="OUT", help="only the full-size UNet, to this npz")
    parser.add_argument("--small", action="store_true", help="with --full: the small UNet, to try the way out")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: all)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    if options.full:
        np.savez(options.full, **make_full(options.small))
        return
    DATA.mkdir(exist_ok=True)
    for name, make in (("blocks", make_blocks), ("networks", make_networks), ("vision", make_vision),
                       ("schedulers", make_schedulers), ("gradients", make_gradients)):
        path = DATA / f"{name}.npz"
        np.savez_compressed(path, **make())
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
