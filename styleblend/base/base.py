"""A base model: a diffusers folder of Stable Diffusion 2.x, found on disk or on a hub, loaded strictly."""
from __future__ import annotations

import hashlib
import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ContextManager, Dict, Generator, Optional, Sequence

import numpy as np

from styleblend.models.configs import ClipTextConfig, ScheduleConfig, UNetConfig, VaeConfig, read_config, read_object
from styleblend.diffusion.schedule import NoiseSchedule
from styleblend.errors import StyleBlendError, printable
from styleblend.files.base_folder import COPIES, FILES, find_base, weight_file
from styleblend.models.clip_text import CLIPTextModel
from styleblend.models.unet import UNet2DConditionModel
from styleblend.models.vae import AutoencoderKL
from styleblend.base.offload import Offloaded
from styleblend.kernels.dtypes import chosen, drawn_as
from styleblend.machine.precision import vae_type
from styleblend.machine.runtime import device, say
from styleblend.settings import RunSettings
from styleblend.base.tokens import Tokenizer
from styleblend.base.weights import load
from styleblend.files.tensor_files import stored_tensors

NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def text_names(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Old files carry a position_ids buffer; transformers 5 writes no `text_model.` prefix."""
    tensors = {k: t for k, t in tensors.items() if not k.endswith("embeddings.position_ids")}
    if any(k.startswith("text_model.") for k in tensors):
        return tensors
    return {f"text_model.{k}": t for k, t in tensors.items()}


def vae_names(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The first diffusers files call the projections of the VAE's attention query, key, value and proj_attn."""
    renamed = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.*mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)", key)
        if match:
            ours = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[match[2]]
            key = f"{match[1]}.{ours}.{match[3]}"
        if re.search(r"mid_block\.attentions\.0\.to_.*weight$", key) and tensor.ndim == 4:
            tensor = np.asarray(tensor)[:, :, 0, 0]  # the very first ones are 1x1 convolutions
        renamed[key] = tensor
    return renamed


@dataclass(repr=False)
class Base:
    """Networks, tokenizer and noise schedule of one base."""

    folder: Path
    unet: Optional[UNet2DConditionModel]
    vae: Optional[AutoencoderKL]
    text_encoder: Optional[CLIPTextModel]
    schedule: NoiseSchedule
    dtype: str = "float32"  # of the UNet and the text encoder
    offloaded: Dict[str, Offloaded] = field(default_factory=dict)
    # fingerprints of networks that are offloaded: they are asked for with every adapter
    prints: Dict[str, str] = field(default_factory=dict)

    def offload(self) -> None:
        """From now on each network is on the device only inside `at_work` of its name.

        The rest of the time its weights wait in the host's memory.
        """
        self.prints = {"unet": self.fingerprint(), "vae": self.decoder_fingerprint()}
        self.offloaded = {part: Offloaded(getattr(self, part)) for part in NETWORKS}

    def at_work(self, part: str) -> ContextManager:
        """Where a network is used that may be offloaded: `with base.at_work("unet"):`."""
        return self.offloaded[part].at_work() if part in self.offloaded else nullcontext()

    def tokenizer(self, placeholders: Sequence[str] = ()) -> Tokenizer:
        """A new tokenizer with these placeholder tokens."""
        tokenizer = Tokenizer(self.folder / "tokenizer", placeholders)
        if self.text_encoder is not None and tokenizer.vocabulary != self.text_encoder.config.vocab_size:
            raise StyleBlendError(f"{self.folder / 'tokenizer'} has {tokenizer.vocabulary} tokens, "
                                  f"the text encoder {self.text_encoder.config.vocab_size}: "
                                  "words were added to one of them; use both folders of the same base")
        return tokenizer

    def fingerprint(self) -> str:
        """16 hex digits that tell bases apart, and so which adapters fit: of the UNet's first and last weights."""
        return self.prints.get("unet") or hash_of(self.unet.conv_in, self.unet.conv_out)

    def decoder_fingerprint(self) -> str:
        """The same of the autoencoder's decoder: adapters do not depend on it, pictures do."""
        return self.prints.get("vae") or hash_of(self.vae.decoder.conv_in, self.vae.decoder.conv_out)


def hash_of(*layers) -> str:
    """16 hex digits of SHA-256 of the layers' weights, rounded so that fp16 and fp32 copies agree."""
    return hashlib.sha256(b"".join(layer.weight.numpy().astype(np.float16).tobytes()
                                   for layer in layers)).hexdigest()[:16]


def read_configs(folder: Path) -> dict:
    """The sizes of each network of a base and its noise schedule, by the name of their folder."""
    return {part: read_config(kind, Path(folder) / part / name)
            for part, kind, name in (("text_encoder", ClipTextConfig, "config.json"),
                                     ("unet", UNetConfig, "config.json"), ("vae", VaeConfig, "config.json"),
                                     ("scheduler", ScheduleConfig, "scheduler_config.json"))}


def load_base(folder: Path, dtype: str = "float32") -> Base:
    """Load a diffusers folder, its networks as `dtype` (see `styleblend.machine.precision`), "auto" or "int8".

    StyleBlendError names the first thing that is missing or does not fit, and what to do.
    """
    loading = base_by_parts(folder, dtype)
    while True:
        try:
            next(loading)
        except StopIteration as end:
            return end.value


def base_by_parts(folder: Path, dtype: str = "float32") -> Generator[str, None, Base]:
    """`load_base` for whoever shows how far it is: yields the name of each network (NETWORKS) before it is read."""
    folder, dtype = Path(folder), drawn_as(dtype)
    if not folder.is_dir():
        raise StyleBlendError(f"the base folder {folder} does not exist: "
                              f"give a diffusers folder of Stable Diffusion 2.x ({COPIES})")
    index = folder / "model_index.json"
    if index.is_file():
        kind = str(read_object(index).get("_class_name", ""))[:80]
        if "XL" in kind or "Flux" in kind or "StableDiffusion3" in kind:
            raise StyleBlendError(f"{folder} is a {printable(kind)}; StyleBlend needs a Stable Diffusion 2.x base")
    configs = read_configs(folder)
    text, unet = configs["text_encoder"], configs["unet"]
    if text.hidden_size != unet.cross_attention_dim:
        raise StyleBlendError(f"{folder}: the text encoder is {text.hidden_size} wide, "
                              f"the UNet reads {unet.cross_attention_dim}: these are parts of two models")
    if text.hidden_size == 768:
        raise StyleBlendError(f"{folder} is Stable Diffusion 1.x (text width 768); "
                              "StyleBlend needs a 2.x base (width 1024)")
    networks, renames = {}, {"unet": dict, "vae": vae_names, "text_encoder": text_names}
    for part, network in NETWORKS.items():
        yield part
        path = weight_file(folder / part, FILES[part])
        networks[part] = network(configs[part])
        load(networks[part], renames[part](stored_tensors(path)), str(path),
             vae_type(dtype) if part == "vae" else dtype)
    return Base(folder, networks["unet"], networks["vae"], networks["text_encoder"],
                NoiseSchedule(configs["scheduler"]), dtype)


def base_for_drawing(settings: RunSettings) -> Base:
    """The base that a config names, found and loaded, offloaded where the config asks for it and there is a GPU."""
    dtype = drawn_as(settings.dtype)
    sentence = chosen(settings.dtype, dtype)
    if sentence:
        say(sentence)
    base = load_base(find_base(settings.base, settings.base_id), dtype)
    if settings.offload and device() == "cuda":
        base.offload()
    elif settings.offload:
        say("offload is of no use without a GPU: the networks stay where they are")
    return base
