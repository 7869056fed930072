"""Train a style encoder on a corpus, stage by stage, each with its folder claimed."""
from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Generator, Optional, Union

from styleblend.adapters.new_style_encoder import new_style_encoder, started_style_encoder
from styleblend.adapters.parts import ENCODER_STAGES
from styleblend.adapters.style_encoders import WEIGHTS, encoder_fingerprint, save_style_encoder
from styleblend.base.base import Base, load_base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.weights import load, parameters
from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import find_base
from styleblend.files.claims import claim
from styleblend.files.corpus import Corpus, read_corpus
from styleblend.files.names import check_name
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.whole_files import remove_unfinished
from styleblend.jobs.events import Job, Log
from styleblend.jobs.memory import within
from styleblend.jobs.train import as_event
from styleblend.models.configs import StyleEncoderConfig
from styleblend.models.style_encoder import StyleEncoder
from styleblend.pipeline import Pipeline
from styleblend.settings import RunSettings
from styleblend.settings.style_encoder_training import EncoderNetworkSettings
from styleblend.training.corpus_cache import CorpusCache, Reading, cache_corpus, planned_cache
from styleblend.training.encoder_grids import encoder_grids
from styleblend.training.loop import loss_curve, train
from styleblend.training.style_encoder import Losses
from styleblend.training.style_inversion import (STAGE, forget_tokens, invert_corpus, made_of_corpus, made_of_tokens,
                                                  refuse_others, token_file)

NEW = "new"  # --start: random numbers
BEFORE = {"encoder": (), "finetune": ("encoder",), "joint": ("finetune", "encoder")}  # where a stage begins


@dataclass(frozen=True)
class EncoderRequest:
    """`stage` of the encoder `name` on the corpus in a folder.

    `start`: the folder or checkpoint that the stage begins with, or "new" for random numbers; None: the stage before
    it, of the first the config's `start` or a new one. `overwrite` begins the stage anew.
    """

    settings: RunSettings
    corpus: Path
    stage: str
    name: str
    start: Optional[str] = None
    overwrite: bool = False

    def folder(self) -> Path:
        return Path(self.settings.encoders) / check_name(self.name)


def train_encoder(request: EncoderRequest) -> Job[Optional[Path]]:
    """Train one stage; returns its folder. Closing it saves the step that was made last, or the pictures that are done.

    Of stage tokens several may run at once, on one corpus and name. Busy: another process trains this stage.
    """
    if request.stage not in ENCODER_STAGES:
        raise StyleBlendError(f"there is no stage {request.stage}: it is one of {', '.join(ENCODER_STAGES)}")
    if request.stage == STAGE and request.start is not None:
        raise StyleBlendError("--start has no effect on the stage tokens, which trains no encoder: leave it out")
    settings, folder = request.settings, request.folder()
    refuse_unwritable(folder)
    corpus = read_corpus(request.corpus, max_pixels=settings.pictures.max_pixels)
    for sentence in [*corpus.left_out[:5], *([f"and {len(corpus.left_out) - 5} more"] * (len(corpus.left_out) > 5))]:
        yield Log(f"left out: {sentence}")
    yield Log(f"{len(corpus.entries)} pictures in {len(corpus.styles())} styles")
    if request.stage != STAGE and not is_trained(request):
        refuse_unready(request, corpus)
    dtype = (yield from within(settings, "training", None)).dtype
    base = load_base(find_base(settings.base, settings.base_id), dtype)
    work = tokens_stage if request.stage == STAGE else encoder_stage
    return (yield from work(request, base, corpus, folder))


def cached(settings: RunSettings, base: Base, corpus: Corpus, folder: Path, fit: str,
           config: Union[EncoderNetworkSettings, StyleEncoderConfig], check: Callable) -> Generator:
    """The corpus as it is trained on; says how many captions have too little room.

    `check(cache)` may refuse it, before hours of encoding and before the shards of another one are replaced.
    """
    sampling = settings.sampling
    reading = Reading(config.image_size, fit, sampling.width, sampling.height, settings.pictures.max_pixels,
                      config.template)
    cache = yield from events_of(planned_cache(base, corpus, reading, folder / "cache"))
    check(cache)
    yield from events_of(cache_corpus(base, corpus, reading, cache))
    clamped = count_clamped(base, cache, config.tokens)
    if clamped:
        yield Log(f"{clamped} captions leave too little room for {config.tokens} style tokens: these stand where they "
                  "just fit")
    return cache


def events_of(steps: Generator) -> Generator:
    """What a training yields, as events of a job; returns what the training returns."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield as_event(step)


def count_clamped(base: Base, cache: CorpusCache, count: int) -> int:
    """Captions with too little room for the tokens, counted a shard at a time."""
    tokenizer = base.tokenizer()
    return sum(int(with_style_tokens(tokenizer, rows, count)[1].sum()) for rows in cache.all_rows("ids"))


def tokens_stage(request: EncoderRequest, base: Base, corpus: Corpus, folder: Path) -> Job[Path]:
    """Tokens of each picture; any number of processes may do this at once."""
    settings, config = request.settings, request.settings.encoder_training
    tokens = folder / STAGE
    if request.overwrite:
        forget_tokens(tokens, corpus.entries)
    seed = settings.training.seed
    cache = yield from cached(settings, base, corpus, folder, config.fit, config.network, lambda cache: refuse_others(
        tokens, made_of_corpus(base, cache, config.tokens, config.network.tokens, seed)))
    base.vae = None  # its work is cached
    written = yield from events_of(invert_corpus(base, cache, corpus.entries, config.tokens, config.network.tokens,
                                                 seed, tokens))
    missing = sum(not token_file(tokens, entry).is_file() for entry in corpus.entries)
    yield Log(f"{written} pictures learned here; tokens are in {tokens}"
              + (f"; {missing} pictures are left to other processes" if missing else ""))
    return tokens


def is_trained(request: EncoderRequest) -> bool:
    """Whether the stage is done, and stays as it is."""
    return (request.folder() / request.stage / WEIGHTS).is_file() and not request.overwrite


def refuse_unready(request: EncoderRequest, corpus: Corpus) -> None:
    """StyleBlendError where something is missing that the stage begins with, before anything is loaded or written."""
    config, tokens = getattr(request.settings.encoder_training, request.stage), request.folder() / STAGE
    start_of(request)
    if request.stage == "encoder":
        missing = [entry.name for entry in corpus.entries if not token_file(tokens, entry).is_file()]
        if missing:
            raise StyleBlendError(f"{len(missing)} of {len(corpus.entries)} pictures have no tokens yet ({missing[0]}):"
                                  f" first train encoder --stage {STAGE} with this corpus and --name")
    elif config.reads == "style" and not all(entry.style for entry in corpus.entries):
        raise StyleBlendError("reads: style needs the style of every picture: put pictures into a folder for each "
                              "style, or write style into captions.json")
    if request.stage == "joint" and len(corpus.entries) < 2:
        raise StyleBlendError("the stage joint needs at least two pictures: each gets the style of another")


def refuse_tokens_of_others(request: EncoderRequest, cache: CorpusCache) -> None:
    """StyleBlendError where the tokens that the stage `encoder` would learn are of other pictures."""
    said = made_of_tokens(request.folder() / STAGE)
    if request.stage == "encoder" and said and said.get("corpus") != cache.taught:
        raise StyleBlendError(f"the tokens in {request.folder() / STAGE} are of other pictures or captions, or of "
                              f"another base: learn them again (--stage {STAGE} --overwrite), or choose another --name")


def encoder_stage(request: EncoderRequest, base: Base, corpus: Corpus, folder: Path) -> Job[Path]:
    """A stage that trains the network; writes it as a folder that is drawn with."""
    settings, stage, product = request.settings, request.stage, folder / request.stage
    own = getattr(settings.encoder_training, stage)
    with contextlib.ExitStack() as claims:
        claims.enter_context(claim(folder / "training", stage))
        if is_trained(request):
            yield Log(f"the stage {stage} of {request.name} is trained already ({product}); --overwrite trains it "
                      "again")
            return product
        remove_unfinished(product, folder / "training")
        if request.overwrite:
            for old in (product, folder / "training" / stage):
                shutil.rmtree(old, ignore_errors=True)
        encoder, begun = starting_encoder(request, base)
        yield Log(f"the stage {stage} begins with {begun}")
        cache = yield from cached(settings, base, corpus, folder, encoder.config.fit, encoder.config,
                                  lambda cache: refuse_tokens_of_others(request, cache))
        made_of = made_of_tokens(folder / STAGE) if stage == "encoder" else ""
        if made_of is None:
            yield Log(f"the tokens in {folder / STAGE} do not say of which pictures they are: taken as they are")
        losses = Losses(base, base.tokenizer(), cache, corpus.entries, encoder)
        grids, scored_by = encoder_grids(Pipeline(base, settings), settings, encoder, cache, corpus)
        loss_of = loss_of_stage(request, base, losses, folder)
        if settings.training.gradient_checkpointing:
            base.unet.enable_gradient_checkpointing()
        identity = f"{base.fingerprint()} {cache.fingerprint} {encoder_fingerprint(encoder)} {encoder.config}{made_of}"
        curve = folder / "training" / f"{stage}-loss.png"
        yield from events_of(train(stage, settings.training, parameters(encoder), loss_of, folder / "training",
                                   identity, grids, base.dtype, scored_by, lambda log: loss_curve(curve, {stage: log}),
                                   own))
        save_style_encoder(product, encoder, card(request, corpus, encoder, begun))
        yield Log(f"the encoder is in {product}")
    return product


def loss_of_stage(request: EncoderRequest, base: Base, losses: Losses, folder: Path) -> Callable:
    """The loss of the stage. Networks that it does not need are freed."""
    config = getattr(request.settings.encoder_training, request.stage)
    if request.stage == "encoder":
        return losses.regression(config.batch, folder / STAGE)
    base.vae.encoder = None  # its work is cached
    if request.stage == "finetune":
        if not request.settings.training.sample_every:  # only picture grids are decoded
            base.vae = None
        return losses.finetune(config)
    frozen = None if config.as_published else copy_of(losses.encoder)
    return losses.joint(config, frozen)


def card(request: EncoderRequest, corpus: Corpus, encoder: StyleEncoder, begun: str) -> str:
    """The README.md of an encoder."""
    own, about = getattr(request.settings.encoder_training, request.stage), encoder.config
    return f"""# The style encoder {request.name}

A picture becomes {about.tokens} style tokens of the width {about.width} (Chang 2025). Draw with it:

    styleblend draw --method style_encoder --encoder FOLDER --reference PICTURE --prompt "A rabbit"

- **Base**: the one with the fingerprint {about.base}. Another one is refused.
- **Training**: the stage {request.stage}, {own.steps} steps of {own.batch} pictures, beginning with {begun}. The corpus
  had {len(corpus.entries)} pictures in {len(corpus.styles())} styles.
- **Prompts**: {about.template}
- **Licence**: to be written here. It depends on those of the base and of the pictures.
"""


def copy_of(encoder: StyleEncoder) -> StyleEncoder:
    """The network as it is now, without gradients."""
    found = StyleEncoder(encoder.config)
    load(found, {name: parameter.numpy() for name, parameter in parameters(encoder).items()}, "the encoder")
    return found


def start_of(request: EncoderRequest) -> str:
    """What the stage begins with: a folder, a checkpoint, or NEW. StyleBlendError where it is not there."""
    folder, stage = request.folder(), request.stage
    before = [str(folder / one) for one in BEFORE[stage] if (folder / one / WEIGHTS).is_file()]
    first = (request.settings.encoder_training.start or NEW) if stage == "encoder" else None
    start = request.start or next(iter(before), first)
    if start is None:
        raise StyleBlendError(f"the stage {stage} of {request.name} has no encoder to begin with: first train "
                              "encoder --stage encoder, or name one with --start (new: random numbers)")
    if start != NEW and not Path(start).exists():
        raise StyleBlendError(f"--start {start}: there is no such folder or file: name an encoder, or {NEW} for random "
                              "numbers")
    return start


def starting_encoder(request: EncoderRequest, base: Base) -> tuple:
    """The network that the stage begins with, and what it is, in words."""
    config, seed, start = request.settings.encoder_training, request.settings.training.seed, start_of(request)
    if start == NEW:
        return new_style_encoder(base, config, seed), "random numbers"
    return started_style_encoder(base, Path(start), config, seed), start
