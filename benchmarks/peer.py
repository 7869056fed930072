"""The benchmarks' jobs in PyTorch + diffusers with its fused attention: peer.py JOB ARGUMENTS-AS-JSON.

No Jittor here: the two crash in one process.
"""
import json
import os
import sys
from types import SimpleNamespace

import diffusers
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from worker import numbers, serve

job, args = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
where = dict(device=args.device, dtype=getattr(torch, args.dtype))
SD21 = dict(sample_size=96, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True)


def numbers_of(name, *shape):
    return torch.from_numpy(numbers(name, shape)).to(**where)


def finished(run):
    """The same, which returns when a GPU is done, too."""
    def whole():
        run()
        if args.device == "cuda":
            torch.cuda.synchronize()

    return whole


def unet():
    if args.base != "sd21":
        return UNet2DConditionModel.from_pretrained(f"{args.base}/unet", torch_dtype=where["dtype"]).to(
            args.device).eval()
    network = UNet2DConditionModel(**SD21)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(torch.from_numpy(numbers(name, p.shape)) * 0.02)
    return network.to(**where).eval()


def inputs(network, rows):
    shape = (rows, 4, args.latent, args.latent)
    return (numbers_of("x", *shape), numbers_of("target", *shape), torch.full((rows,), 500, device=args.device),
            numbers_of("text", rows, 77, network.config.cross_attention_dim))


def attention():
    tokens = args.latent ** 2
    q, k, v, weight = (numbers_of(name, args.batch, tokens, args.heads * 64).requires_grad_(args.gradient)
                       for name in ("q", "k", "v", "weight"))
    heads = lambda x: x.view(args.batch, tokens, args.heads, 64).transpose(1, 2)

    def run():
        out = torch.nn.functional.scaled_dot_product_attention(
            heads(q), heads(k), heads(v)).transpose(1, 2).reshape(weight.shape)
        if args.gradient:
            torch.autograd.grad((out * weight.detach()).sum(), [q, k, v])

    return run


def share(network):
    """StyleAligned's published handler, of a clone of google/style-aligned, with the settings that ours has."""
    folder = os.environ.get("STYLEBLEND_STYLE_ALIGNED")
    if not folder:
        raise SystemExit("STYLEBLEND_STYLE_ALIGNED should name a clone of google/style-aligned")
    sys.path.append(folder)
    from sa_handler import Handler, StyleAlignedArgs
    Handler(SimpleNamespace(unet=network)).register(StyleAlignedArgs(share_group_norm=False, share_layer_norm=False))


def unet_step():
    network = unet()
    if args.preset == "aligned":
        share(network)
    x, _, when, text = inputs(network, 4 * args.batch)
    return torch.no_grad()(lambda: network(x, when, text))


def generate():
    pipeline = StableDiffusionPipeline.from_pretrained(args.base, torch_dtype=where["dtype"]).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    side = args.latent * pipeline.vae_scale_factor
    return lambda: pipeline(["A dog"] * (2 * args.batch), height=side, width=side, num_inference_steps=args.steps,
                            guidance_scale=5.0)


def train_step():
    from peft import LoraConfig
    if args.learns != "lora":
        raise SystemExit("the peer has the LoRA's step only: leave out --learns")
    network = unet().requires_grad_(False)
    network.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if args.checkpointing:
        network.train()  # else diffusers leaves it off
        network.enable_gradient_checkpointing()
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()  # as ours: in half precision the LoRA is float32
    optimiser = torch.optim.AdamW(trained, 1e-4)
    x, target, when, text = inputs(network, args.batch)

    def run():
        loss = ((network(x, when, text).sample.float() - target.float()) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run


jobs = {"attention": attention, "unet_step": unet_step, "generate": generate, "train_step": train_step}
serve(lambda: finished(jobs[job]()),
      lambda: {"versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
               "threads": torch.get_num_threads()})
