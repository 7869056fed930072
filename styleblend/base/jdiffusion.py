"""Take over a JDiffusion pipeline that is in memory already. JDiffusion itself is not needed, and never imported."""
from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from dataclasses import fields
from pathlib import Path

from styleblend.base import weights
from styleblend.base.base import Base
from styleblend.models.configs import ClipTextConfig, ScheduleConfig, UNetConfig, VaeConfig, read_config
from styleblend.diffusion.schedule import NoiseSchedule
from styleblend.errors import StyleBlendError
from styleblend.models.clip_text import CLIPTextModel
from styleblend.models.unet import UNet2DConditionModel
from styleblend.models.vae import AutoencoderKL
from styleblend.machine.runtime import jt


def config_of(module, kind: type, folder: Path):
    """The configuration of one of the pipeline's parts as our dataclass, checked like a config.json."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    known = {f.name: config[f.name] for f in fields(kind) if f.name in config}
    path = folder / f"{kind.__name__}.json"
    path.write_text(json.dumps(known, default=list), encoding="utf-8")
    return read_config(kind, path)


def save_tokenizer(tokenizer, folder: Path) -> None:
    """vocab.json, merges.txt and the padding, as a base's folder has them."""
    folder.mkdir()
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        tokenizer.save_vocabulary(str(folder))
    else:
        core.model.save(str(folder))  # in transformers 5 save_vocabulary writes another file and neither of these
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": str(tokenizer.pad_token)}),
                                                    encoding="utf-8")


def from_jdiffusion(pipeline) -> Base:
    """A Base that shares the weights of a JDiffusion Stable Diffusion 2.x pipeline.

    Module names agree, so no float32 tensor is copied. `pipeline` has `unet`, `vae`, `text_encoder` (Jittor modules
    with `config`), `tokenizer` and `scheduler`.
    """
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not hasattr(pipeline, part):
            raise StyleBlendError(f"this pipeline has no {part}: "
                                  "from_jdiffusion takes a Stable Diffusion 2.x pipeline of JDiffusion")
    folder = Path(tempfile.mkdtemp(prefix="styleblend-"))
    try:
        base = taken_over(pipeline, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(base, shutil.rmtree, folder, ignore_errors=True)
    return base


def taken_over(pipeline, folder: Path) -> Base:
    """The Base, with its tokenizer in `folder`."""
    save_tokenizer(pipeline.tokenizer, folder / "tokenizer")
    networks = {}
    for part, kind, network in (("unet", UNetConfig, UNet2DConditionModel), ("vae", VaeConfig, AutoencoderKL),
                                ("text_encoder", ClipTextConfig, CLIPTextModel)):
        module = getattr(pipeline, part)
        # detached, which is a Var of its own on the same memory:
        # a base takes no gradients, and the pipeline may still be trained
        theirs = {k: v.detach() for k, v in module.state_dict().items()
                  if isinstance(v, jt.Var) and not k.endswith("position_ids")}
        networks[part] = network(config_of(module, kind, folder))
        weights.share(networks[part], theirs, f"the pipeline's {part}")
    schedule = NoiseSchedule(config_of(pipeline.scheduler, ScheduleConfig, folder))
    return Base(folder, networks["unet"], networks["vae"], networks["text_encoder"], schedule)
