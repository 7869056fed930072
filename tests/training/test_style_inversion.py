"""Stage tokens on the mini base: inversion lowers the noise loss of each of 64 pictures."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from styleblend.base.base import load_base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.files.corpus import read_corpus
from styleblend.jobs.events import result_of
from styleblend.jobs.train_encoder import EncoderRequest, train_encoder
from styleblend.machine.runtime import jt
from styleblend.settings import read_settings
from styleblend.training.corpus_cache import CorpusCache
from styleblend.training.loop import step_rng
from styleblend.training.noise_loss import Noisy
from styleblend.training.style_inversion import inversion_loss, read_tokens

ROOT = Path(__file__).parents[2]
MINI = ROOT / "checkpoints" / "mini" / "base"
DRAWS = 16  # noises of each picture, over all levels, that neither start nor end was trained with
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")]


def corpus_of_64(folder: Path) -> Path:
    """The shipped style pictures, mirrored, and upside down."""
    entries, shipped = [], sorted((ROOT / "data" / "mini").rglob("*.png"))
    for change in (lambda picture: picture, ImageOps.mirror, ImageOps.flip):
        for path in shipped[:64 - len(entries)]:
            name = f"{path.parents[1].name}/{len(entries):02d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            change(Image.open(path).convert("RGB")).save(folder / name)
            entries.append({"image_path": name, "caption": "A " + path.stem.replace("_", " ").lower()})
    (folder / "captions.json").write_text(json.dumps(entries))
    return folder


def noise_losses(base, tokenizer, cache, ids, tokens) -> np.ndarray:
    """The noise loss of each picture under its tokens (N, count, width), by the same noise every time."""
    times, found = np.linspace(20, 980, DRAWS).astype(int), []
    for place, own in enumerate(tokens):
        rng, index = np.random.default_rng(place), np.full(DRAWS, place)
        x0 = jt.array(cache.sample(rng, index))
        noisy = Noisy(x0, jt.array(rng.standard_normal(x0.shape).astype(np.float32)), times)
        with jt.no_grad():
            rows = with_style_tokens(tokenizer, ids[index], len(own))[0]
            found.append(inversion_loss(base, noisy, rows, jt.array(np.stack([own] * DRAWS))).item())
    return np.array(found)


def test_inversion_lowers_the_loss_of_each_of_64_pictures(tmp_path, report):
    settings = read_settings("mini")
    own = settings.encoder_training
    own = own.model_copy(update={"tokens": own.tokens.model_copy(update={"batch": 16, "steps": 100})})
    settings = settings.model_copy(update={"encoder_training": own, "encoders": str(tmp_path)})
    folder = corpus_of_64(tmp_path / "corpus")
    tokens = result_of(train_encoder(EncoderRequest(settings, folder, "tokens", "mine")))
    base, entries = load_base(MINI), read_corpus(folder).entries
    tokenizer = base.tokenizer()
    cache = CorpusCache(sorted((tmp_path / "mine" / "cache").glob("*.safetensors")), len(entries), base.vae.scale, "")
    width, count, seed = base.text_encoder.config.hidden_size, own.network.tokens, settings.training.seed
    start = np.stack([step_rng(seed, f"tokens of {place}", 0).standard_normal((count, width)) * own.tokens.spread
                      for place in range(len(entries))]).astype(np.float32)
    ids = cache.ids(np.arange(len(entries)))
    before = noise_losses(base, tokenizer, cache, ids, start)
    after = noise_losses(base, tokenizer, cache, ids, read_tokens(tokens, entries, count, width))
    report(f"64 pictures, {own.tokens.steps} steps: loss {before.mean():.4f} -> {after.mean():.4f}, "
           f"lower by {(1 - after / before).min():.1%} to {(1 - after / before).max():.1%}")
    assert len(before) == 64 and (after < before).all()
