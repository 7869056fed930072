"""The benchmarks' jobs in PyTorch + diffusers with its fused attention: peer.py JOB ARGUMENTS-AS-JSON. No Jittor here: the two crash in one process."""
import json
import sys
from types import SimpleNamespace

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from worker import serve

job, args = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
SD21 = dict(sample_size=96, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)


def unet():
    return (UNet2DConditionModel(**SD21) if args.base == "sd21" else UNet2DConditionModel.from_pretrained(f"{args.base}/unet", torch_dtype=torch.float32)).eval()


def inputs(network, rows):
    shape = (rows, 4, args.latent, args.latent)
    return torch.randn(shape), torch.randn(shape), torch.full((rows,), 500), torch.randn(rows, 77, network.config.cross_attention_dim)


def attention():
    tokens = args.latent ** 2
    q, k, v, weight = (torch.randn(args.batch, tokens, args.heads * 64, requires_grad=args.gradient) for _ in range(4))
    heads = lambda x: x.view(args.batch, tokens, args.heads, 64).transpose(1, 2)

    def run():
        out = torch.nn.functional.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).reshape(weight.shape)
        if args.gradient:
            torch.autograd.grad((out * weight).sum(), [q, k, v])

    return run


def unet_step():
    network = unet()
    x, _, when, text = inputs(network, 4 * args.batch)
    return torch.no_grad()(lambda: network(x, when, text))


def generate():
    pipeline = StableDiffusionPipeline.from_pretrained(args.base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    side = args.latent * pipeline.vae_scale_factor
    return lambda: pipeline(["A dog"] * (2 * args.batch), height=side, width=side, num_inference_steps=args.steps, guidance_scale=5.0)


def train_step():
    from peft import LoraConfig
    network = unet().requires_grad_(False)
    network.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if args.checkpointing:
        network.train()  # else diffusers leaves it off
        network.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4)
    x, target, when, text = inputs(network, args.batch)

    def run():
        loss = ((network(x, when, text).sample - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run


serve({"attention": attention, "unet_step": unet_step, "generate": generate, "train_step": train_step}[job])
