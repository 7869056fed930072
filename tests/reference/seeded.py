"""What both sides of a comparison know: sizes of the small networks, and weights and inputs that are drawn from a name.

NumPy is all that this needs. PyTorch's side (make_references.py) and ours (test_parity.py) draw the same numbers, so
only outputs are stored, and the full-size network needs no file at all.
"""
from __future__ import annotations

import json
import math
import zlib

import numpy as np

LEVELS = dict(down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
              up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
UNET = dict(sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32, 32, 32), layers_per_block=2,
            norm_num_groups=8, attention_head_dim=(1, 2, 2, 2), cross_attention_dim=32, use_linear_projection=True,
            **LEVELS)
SD21_UNET = dict(sample_size=96, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280),
                 layers_per_block=2, norm_num_groups=32, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024,
                 use_linear_projection=True, **LEVELS)
SD21_UNET_PARAMETERS = 865_910_724
# what a ControlNet has of its UNet, and its own
CONTROLNET, SD21_CONTROLNET = ({name: sizes[name] for name in (
    "in_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim",
    "cross_attention_dim", "use_linear_projection", "down_block_types")} for sizes in (UNET, SD21_UNET))
CONTROLNET["conditioning_embedding_out_channels"] = (4, 8, 8, 16)
TEXT = dict(vocab_size=1000, hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=77, hidden_act="gelu", layer_norm_eps=1e-5)
VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28,
              patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5)
VAE = dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 16, 32, 32), layers_per_block=2,
           norm_num_groups=8, scaling_factor=0.18215)
SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                steps_offset=1, set_alpha_to_one=False, clip_sample=False)

# the measuring networks; both towers of CLIP read the real vocabulary
CLIP = dict(projection_dim=16,
            text_config={**TEXT, "vocab_size": 49408, "hidden_act": "quick_gelu", "projection_dim": 16},
            vision_config={**VISION, "projection_dim": 16})
CLIP_RESNET = dict(embed_dim=16, image_resolution=64, vision_layers=(1, 2, 1, 1), vision_width=8,
                   vision_patch_size=None, context_length=77, vocab_size=49408, transformer_width=128,
                   transformer_heads=2, transformer_layers=2)
CSD = dict(width=128, layers=3, side=28, patch=7, out=24)  # heads of 64 channels
DINO = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=32,
            patch_size=8)
DINOV2 = dict(hidden_size=32, mlp_ratio=4, num_hidden_layers=3, num_attention_heads=4, image_size=112, patch_size=28)
# the published sizes, for a test that is not run by default
FULL_METRICS = {
    "clip": dict(projection_dim=768,
                 text_config=dict(TEXT, vocab_size=49408, hidden_size=768, intermediate_size=3072,
                                  num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu",
                                  projection_dim=768),
                 vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                                    num_attention_heads=16, image_size=224, patch_size=14, hidden_act="quick_gelu",
                                    layer_norm_eps=1e-5, projection_dim=768)),
    "clip_base": dict(projection_dim=512,
                      text_config=dict(TEXT, vocab_size=49408, hidden_size=512, intermediate_size=2048,
                                       num_hidden_layers=12, num_attention_heads=8, hidden_act="quick_gelu",
                                       projection_dim=512),
                      vision_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                         num_attention_heads=12, image_size=224, patch_size=32,
                                         hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512)),
    "clip_resnet": dict(embed_dim=1024, image_resolution=224, vision_layers=(3, 4, 6, 3), vision_width=64,
                        vision_patch_size=None, context_length=77, vocab_size=49408, transformer_width=512,
                        transformer_heads=8, transformer_layers=12),
    "dino": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                 image_size=224, patch_size=8),
    "dinov2": dict(hidden_size=768, mlp_ratio=4, num_hidden_layers=12, num_attention_heads=12, image_size=518,
                   patch_size=14),
}
# image encoders of CLIP as style encoders have them; the small one to try the way out
CLIP_VISION = {
    "small": VISION,
    "ViT-L/14": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                     image_size=224, patch_size=14, hidden_act="quick_gelu", layer_norm_eps=1e-5),
    "ViT-H/14": dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
                     image_size=224, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5),
}
# the depth estimators; the tables of the full sizes hold only what is not transformers' default
DEPTH_ANYTHING = dict(reassemble_hidden_size=32, neck_hidden_sizes=(8, 16, 24, 32), fusion_hidden_size=16,
                      head_hidden_size=8,
                      backbone_config=dict(model_type="dinov2", hidden_size=32, num_hidden_layers=5,
                                           num_attention_heads=4, image_size=70, patch_size=14,
                                           out_indices=[1, 2, 4, 5], reshape_hidden_states=False))
DPT = dict(is_hybrid=True, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
           image_size=48, patch_size=16, backbone_out_indices=(0, 1, 2, 3), reassemble_factors=(1, 1, 1, 0.5),
           neck_hidden_sizes=(16, 32, 32, 24), fusion_hidden_size=16, backbone_featmap_shape=(1, 48, 3, 3),
           backbone_config=dict(model_type="bit", embedding_size=8, hidden_sizes=(16, 32, 48), depths=(1, 2, 1),
                                num_groups=4, global_padding="same", layer_type="bottleneck",
                                out_features=["stage1", "stage2", "stage3"], embedding_dynamic_padding=True))
FULL_DEPTH_ANYTHING = dict(backbone_config=dict(
    model_type="dinov2", hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14,
    out_indices=[3, 6, 9, 12], reshape_hidden_states=False))
FULL_DPT = dict(is_hybrid=True, reassemble_factors=(1, 1, 1, 0.5), neck_hidden_sizes=(256, 512, 768, 768),
                backbone_config=dict(model_type="bit", depths=(3, 4, 9), global_padding="same",
                                     layer_type="bottleneck", out_features=["stage1", "stage2", "stage3"],
                                     embedding_dynamic_padding=True))
DEPTH_SIZES = ((33, 57), (90, 61))  # width, height of pictures whose depth is estimated
FULL_DEPTH_SIZE = (300, 221)
# width, height of pictures that Depth Anything resizes by its own rule
READ_SIZES = ((518, 518), (768, 768), (1024, 768), (768, 1024), (640, 480), (300, 221), (1, 1), (511, 525), (2072, 518),
              (130, 1036), (97, 31))
# what describes pictures and what shortens prompts; small vocabularies, so that texts come to an end
BLIP = dict(text_config=dict(vocab_size=60, hidden_size=32, encoder_hidden_size=48, intermediate_size=64,
                             num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=24, bos_token_id=50,
                             sep_token_id=16, eos_token_id=2, pad_token_id=0),
            vision_config=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                               image_size=64, patch_size=16))
# the sizes of the published base, which are not all transformers' defaults
FULL_BLIP = dict(text_config=dict(num_attention_heads=12), vision_config=dict(num_attention_heads=12))
T5 = dict(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, relative_attention_num_buckets=8,
          relative_attention_max_distance=20, decoder_start_token_id=0)
FULL_T5 = dict(decoder_start_token_id=0)  # t5-small has transformers' defaults
# what hears music: pictures of 32 x 32 tokens, whose last stage is one window
CLAP = dict(projection_dim=24,
            audio_config=dict(patch_size=8, patch_stride=[8, 8], window_size=4, depths=[1, 2, 2, 2],
                              num_attention_heads=[1, 2, 2, 4], patch_embeds_hidden_size=8, hidden_size=64),
            text_config=dict(vocab_size=120, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                             num_attention_heads=4, max_position_embeddings=80))
# RoBERTa's tokenizer with few words: printable characters, and these pairs of them, in this order
MERGES = ("m u", "mu s", "i c", "mus ic", "\u0120 music", "\u0120 s", "o u", "\u0120s ou", "a n", "an d", "\u0120 and",
          "\u0120 a", "e r", "T h")
FELT = ("This is a sound of calm and dreamy music.", "heavy, thunderous", "x")  # texts that CLAP reads
CAPTIONED = ((48, 40), (33, 57), (90, 61))  # width, height of pictures that BLIP looks at
SOURCES = (6, 31, 70)  # tokens of the texts that T5 reads
SAID = 9  # tokens of the texts whose logits are compared
LONGEST_CAPTION = 20
# as prompts are shortened: transformers' names
SUMMARY = dict(num_beams=4, max_length=50, min_length=5, length_penalty=1.5, early_stopping=True)
WORDS = ("cat", "dog", "tree", "car", "red apple", "hot air balloon", "house", "boat", "bird", "clock", "chair", "owl")
SIZES = ((48, 40), (33, 57), (90, 61))  # width, height of pictures that are prepared for a network

# latents (rows, height, width) that the small UNet is run on: square, not square, no multiple of 8, odd
UNET_SIZES = {"square": (2, 16, 16), "wide": (2, 8, 24), "ragged": (2, 12, 20), "odd": (1, 9, 13)}
UNET_TIMES = (958, 21)
PICTURE = (128, 192)
GRADIENT_TIMES = (301, 877)
RANK = 2
FULL_LATENTS, FULL_TIMES, FULL_TOKENS = (2, 4, 64, 64), (981, 301), 77

# sampler, eta: of the trajectories
SAMPLERS = (("ddim", 0.0), ("ddim", 0.5), ("dpmpp_2m", 0.0), ("euler", 0.0), ("pndm", 0.0))
STEP_COUNTS = (10, 20)
LATENTS = (2, 4, 6, 5)


def uniform(name: str, shape) -> np.ndarray:
    """float32 numbers in -1..1. Raw PCG64 output, which no version of NumPy may change."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random(shape, np.float32) * 2 - 1


def values(name: str, shape) -> np.ndarray:
    """An input of variance 1."""
    return uniform(name, shape) * np.float32(math.sqrt(3))


def weight(name: str, shape) -> np.ndarray:
    """A parameter by its name: matrices of variance 1 / fan-in, gains around 1, biases that are not 0.

    Heads of LPIPS are not negative.
    """
    if name.endswith(("position_embeddings", "position_embedding")):
        return values(name, shape) * np.float32(0.3)
    if name.startswith("lpips/"):
        return (uniform(name, shape) + 1) / 2
    if len(shape) > 1:
        return uniform(name, shape) * np.float32(math.sqrt(3 / math.prod(shape[1:])))
    drawn = uniform(name, shape)
    if name.endswith(("head.conv3.bias", "head.head.4.bias")):
        return drawn + 2  # depth is cut off at 0: most of it should be above
    return drawn * np.float32(0.3) + 1 if name.endswith(("weight", "running_var")) else drawn * np.float32(0.2)


def language_weight(name: str, shape) -> np.ndarray:
    """The same for networks that write, so that their texts have many words and an end.

    They read and write words by the same vectors, so a random network would say one word for ever: here places and the
    layers count more. T5's end (1) is a word that is often said. T5 does not divide scores by sqrt(d): the wider
    its q, the smaller, or attention picks one word each and the last bits of float32 grow from layer to layer.
    """
    if name.endswith("word_embeddings.weight"):
        return values(name, shape)
    if name.endswith("position_embeddings.weight"):
        return values(name, shape) * 3
    if name.endswith("shared.weight"):
        vectors = values(name, shape)
        vectors[1] *= 1.5
        return vectors
    factors = {".query.weight": 3, ".key.weight": 3, ".q.weight": 12 / math.sqrt(shape[0]), ".o.weight": 4,
               ".wo.weight": 4, "relative_attention_bias.weight": 3}
    return weight(name, shape) * np.float32(next((x for end, x in factors.items() if name.endswith(end)), 1))


def clap_weight(name: str, shape) -> np.ndarray:
    """The same for a network that reads decibels."""
    factors = {"batch_norm.running_mean": (-40, 10), "batch_norm.running_var": (300, 100)}
    usual, spread = next((x for end, x in factors.items() if name.endswith(end)), (0, 0))
    drawn = usual + spread * uniform(name, shape) if spread else weight(name, shape)
    return np.asarray(drawn, np.float32)


def write_roberta_tokenizer(folder) -> None:
    """vocab.json and merges.txt of the small tokenizer."""
    characters = [chr(code) for code in range(33, 127)] + ["\u0120"]
    words = ["<s>", "<pad>", "</s>", "<unk>", *characters, *(pair.replace(" ", "") for pair in MERGES), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")


def source_ids(count: int, vocabulary: int) -> np.ndarray:
    """(1, count) ids of a text; none of them is the padding, and the last one is T5's end."""
    drawn = (uniform(f"source/{count}", (1, count)) + 1) / 2 * (vocabulary - 3) + 2
    drawn[0, -1] = 1
    return drawn.astype(np.int64)


def said_ids(start: int, vocabulary: int) -> np.ndarray:
    """(2, SAID) ids of two texts so far."""
    drawn = (uniform("said", (2, SAID)) + 1) / 2 * (vocabulary - 3) + 2
    drawn[:, 0] = start
    return drawn.astype(np.int64)


def token_ids(name: str, rows: int, vocabulary: int) -> np.ndarray:
    """(rows, 77) ids below `vocabulary`."""
    return ((uniform(name, (rows, 77)) + 1) / 2 * (vocabulary - 1)).astype(np.int64)


def pictures(name: str, count: int, width: int = 48, height: int = 40) -> np.ndarray:
    """(count, height, width, 3) uint8: coloured fields with some noise, no two alike."""
    fields = np.kron(uniform(name, (count, -(-height // 8), -(-width // 8), 3)),
                     np.ones((1, 8, 8, 1), np.float32))[:, :height, :width]
    return np.uint8(127.5 + 110 * fields + 17 * uniform(f"{name}/noise", fields.shape))


def toy_model(x, t: float):
    """Stands for the network when only a sampler is compared; `x` of any array type."""
    return x * 0.3 + math.sin(t / 100)


def controlnet_inputs(sizes: dict) -> tuple:
    """Latents, states of a text and a picture in 0..1, two of each."""
    rows, _, height, width = FULL_LATENTS
    return (values("controlnet/input0", FULL_LATENTS),
            values("controlnet/input1", (rows, FULL_TOKENS, sizes["cross_attention_dim"])),
            (uniform("controlnet/input2", (rows, 3, 8 * height, 8 * width)) + 1) / 2)


def clip_vision_pictures(sizes: dict) -> np.ndarray:
    """Two pictures for an image encoder, (2, 3, side, side)."""
    return uniform("clip_vision/pictures", (2, 3, sizes["image_size"], sizes["image_size"]))
