"""Draw one phrase: in a style or plain, with one seed or several, anew or as a picture says of itself."""
from __future__ import annotations

import math
import os
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

from PIL import Image

from styleblend.adapters.mixes import style_name
from styleblend.adapters.style import Style, load_named, style_hash
from styleblend.base.base import Base, base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.output_files import free_path, refuse_no_file, refuse_taken, refuse_unwritable_file
from styleblend.files.pictures import contact_sheet, sheet_size
from styleblend.files.prompts import phrase_of
from styleblend.files.saved_pictures import FORMATS, format_of, refuse_unsaved, save_picture
from styleblend.jobs.choices import drawn_again, ready_style
from styleblend.jobs.drawing import draw_pictures, refuse_reserved
from styleblend.jobs.events import Drawn, Job, Log, Progress, Written
from styleblend.jobs.memory import beside, within
from styleblend.jobs.missing_pictures import saved_size
from styleblend.jobs.plans import Plan, plan_for, with_encoder, with_options, with_own
from styleblend.pipeline import Pipeline
from styleblend.record import Record, files_looked_at
from styleblend.settings import KINDS, LARGEST_SEED, ControlSettings, RunSettings, Source, validated

COLUMNS, CELL = 4, 256  # of the contact sheet; pixels of a picture in it
MOST_PICTURES = 10_000  # of one command
BY_CHANCE = -1  # a seed that is drawn by chance,
CHANCES = (1 << 31) - 2  # one of so many: what Jittor's generator tells apart


@dataclass(frozen=True)
class DrawRequest:
    """What is to be drawn: a `prompt`, in `style` or plain (None); or `again`, a picture of this program.

    From that picture comes all that is not given. `count` pictures have the seeds from `seed` on (None: the picture's,
    else the config's). `strength` is a factor of the style. `sampling` are fields of the sampling settings that differ,
    and `negative` the negative prompt. `output` is the file of a single picture (.png, .jpg or .webp); the pictures of
    several are <output>-<seed>.png, and `output` is their contact sheet. `overwrite` replaces what is there. `seed` -1
    is drawn by chance. `max_memory` as in `BoardRequest`.
    """

    settings: RunSettings
    prompt: Optional[str] = None
    style: Optional[str] = None
    again: Optional[Path] = None
    seed: Optional[int] = None
    count: int = 1
    strength: Optional[float] = None
    negative: Optional[str] = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    dtype: Optional[str] = None
    output: Optional[Path] = None
    max_memory: Optional[str] = None
    overwrite: bool = False
    control: Tuple[ControlSettings, ...] = ()  # pictures that hold the layout; those of `again` where it has none
    own: Mapping[str, object] = field(default_factory=dict)  # settings of the style's method that differ
    method: Optional[str] = None  # how it is drawn where no style is named: by reference pictures, which `own` has
    sources: Tuple[Source, ...] = ()  # of which media `prompt` was made

    def file(self, seeds: Sequence[int]) -> Path:
        """Where the picture, or the contact sheet, is written. StyleBlendError where that is not possible.

        Without `output` it is a free name; a name that is given must be free, or its file be replaced with `overwrite`.
        """
        if self.output is None:
            output = free_path(self.usual_file(), lambda path: any(map(os.path.lexists, files_of(path, seeds))))
        else:
            output = Path(self.output)
            refuse_no_file(output)
        format_of(output)
        refuse_unwritable_file(files_of(output, seeds)[-1])  # the one with the longest name
        for path in files_of(output, seeds):
            refuse_no_file(path)
            if self.again and path.exists() and path.samefile(self.again):
                raise StyleBlendError(f"{path} is the picture that is drawn again, and would be lost: choose another "
                                      "--output")
            refuse_taken(path, self.overwrite)
        return output

    def usual_file(self) -> Path:
        """Where it is written when nobody says where."""
        if not self.again:
            return Path("picture.png")
        again = Path(self.again)
        return Path(f"{again.stem}-again{again.suffix if again.suffix.lower() in FORMATS else '.png'}")


def seeds_of(request: DrawRequest, first: int) -> List[int]:
    """The seeds of the pictures. StyleBlendError when there are none."""
    if not 1 <= request.count <= MOST_PICTURES:
        raise StyleBlendError(f"--count {request.count}: give a number from 1 to {MOST_PICTURES}")
    if first == BY_CHANCE:
        first = 1 + secrets.randbelow(CHANCES)
    if not 0 <= first <= LARGEST_SEED - request.count + 1:
        raise StyleBlendError(f"--seed {first} is no seed: give a number from 0 to {LARGEST_SEED - request.count + 1}, "
                              f"or {BY_CHANCE} for one by chance")
    return list(range(first, first + request.count))


def planned(request: DrawRequest, record: Optional[Record]) -> Plan:
    """How the pictures are drawn: by the record or the config and the style, then by what the request says.

    What would have no effect is refused.
    """
    settings = request.settings
    dtype = request.dtype or (record and record.dtype)
    settings = settings.model_copy(update={"dtype": dtype}) if dtype else settings
    plan = plan_for(settings, style_name(request.style) if request.style else record and record.style, request.method)
    if record:
        refuse_another_kind(request, record)
        own = plan.own if plan.own.method == record.method else KINDS[record.method]()
        own = own.model_copy(update={"preset": record.preset}) if hasattr(own, "preset") else own
        plan = replace(plan, own=own, sampling=record.sampling, settings=record.settings, control=record.control,
                       content=record.content)
    kept = record.sources if record and not request.prompt else request.sources
    plan = replace(plan, control=request.control or plan.control, sources=kept)
    plan = with_encoder(with_own(with_options(plan, request.sampling, request.negative), request.own))
    refuse_unused_guidance(plan, request)
    return with_strength(plan, request.strength)


def refuse_another_kind(request: DrawRequest, record: Record) -> None:
    """StyleBlendError for a style or a method beside a picture that was drawn without it."""
    if request.style and not record.style:
        raise StyleBlendError(f"{request.again} was drawn without --style: leave it out, or leave out --from")
    if request.method and request.method != record.method:
        raise StyleBlendError(f"{request.again} was not drawn by {request.method}: leave out --method, or leave out "
                              "--from")


def refuse_unused_guidance(plan: Plan, request: DrawRequest) -> None:
    """StyleBlendError for a guidance that has no effect beside DreamStyler's dials, and for dials beside none."""
    dials = getattr(plan.settings, "use_sc_guidance", False)
    if dials and request.own and plan.sampling.guidance == 1:
        raise StyleBlendError("the dials of style and context have no effect where guidance is off (1): leave them "
                              "out, or give another --guidance")
    if dials and request.sampling.get("guidance", 1) != 1:
        raise StyleBlendError("--guidance has no effect beside the dials of style and context: give --neg-gamma")


def with_strength(plan: Plan, strength: Optional[float]) -> Plan:
    """The plan with another factor of the style."""
    if strength is None:
        return plan
    if not plan.name:
        raise StyleBlendError("--strength has no effect without a style: leave it out, or name a --style")
    kind = type(plan.settings)
    if kind.strength is None or "unet_lora" not in plan.adapters:
        raise StyleBlendError(f"--strength has no effect on {plan.name}, which has no UNet LoRA: leave it out")
    settings = validated(kind, {**plan.settings.model_dump(), kind.strength: strength}, "--strength")
    return replace(plan, settings=settings)


def file_of_seed(output: Path, seed: int) -> Path:
    """One of several pictures: NAME-SEED.png beside NAME.png, their contact sheet."""
    return output.with_name(f"{output.stem}-{seed}{output.suffix}")


def files_of(output: Path, seeds: Sequence[int]) -> List[Path]:
    """All files of a drawing."""
    return [output, *(file_of_seed(output, seed) for seed in seeds if len(seeds) > 1)]


def refuse_other(again: Path, then: Record, now: Record) -> None:
    """Refuse to draw a picture again with another base, autoencoder or style, or by files that were changed since."""
    changed = [name for name, before in then.pictures.items() if now.pictures.get(name, before) != before]
    if changed:
        raise StyleBlendError(f"{again} was drawn by another picture than {changed[0]} is now: put that one back")
    if getattr(then.settings, "full_attention_share", False):
        raise StyleBlendError(f"{again} was drawn with full_attention_share, by which it depends on the rest of its "
                              "set: align draws the set again")
    pairs = (("base", then.base, now.base), ("autoencoder", then.decoder or now.decoder, now.decoder),
             ("style encoder", then.adapters.get("encoder", ""), now.adapters.get("encoder", "")),
             ("style", then.style_hash, now.style_hash))
    for what, before, after in pairs:
        if before != after:
            raise StyleBlendError(f"{again} was drawn with another {what} ({before or 'none'}; this one is "
                                  f"{after or 'none'}): name a config and adapters with that one")


def refuse_gone(again: Path, record: Record, plan: Plan) -> None:
    """StyleBlendError where a picture that was looked at is not where it was, and no option names another one."""
    used = files_looked_at(plan.settings, plan.control, plan.content)
    gone = next((name for name in record.pictures if name in used and not Path(name).is_file()), None)
    if gone:
        where = "" if Path(gone).is_absolute() else f" of {Path.cwd()}"
        raise StyleBlendError(f"{again} was drawn by the picture {gone}{where}, which is not there: put it back, or "
                              "start in the folder in which it was drawn")


def draw(request: DrawRequest) -> Job[List[Path]]:
    """Draw the pictures and write them; returns their files, and that of the contact sheet where there are several."""
    record = drawn_again(request.prompt, request.style, request.again)
    phrase = phrase_of(request.prompt) if request.prompt else record.prompt
    name = request.style or (record.style if record else "")
    if name:
        ready_style(request.settings, name)
    plan = planned(request, record)
    if record:
        refuse_gone(request.again, record, plan)
    default = record.seed if record else plan.sampling.seed
    seeds = seeds_of(request, default if request.seed is None else request.seed)
    output = request.file(seeds)
    refuse_unsaved(output, (plan.sampling.width, plan.sampling.height), plan.record(phrase, seeds[-1]).chunks())
    if len(seeds) > 1:
        refuse_unsaved(output, sheet_size(math.ceil(len(seeds) / COLUMNS), COLUMNS, CELL), {})
    if request.seed == BY_CHANCE:
        yield Log(f"drawn by chance: --seed {seeds[0]}")
    batch = min(len(seeds), plan.config.sampling.batch)
    single = len(seeds) == batch  # then each network can go when its work is done
    # what makes a run leaner changes no picture, so the record says the settings as they were asked for
    lean = plan.config.model_copy(update={"sampling": plan.sampling.model_copy(update={"batch": batch})})
    lean = yield from within(lean, "drawing once" if single and not lean.offload else "drawing", request.max_memory,
                             beside(lean, plan.control, encoder=plan.encoder()))
    base = base_for_drawing(lean)
    style = load_named(lean.adapters, plan.name, base) if plan.name else None
    hashes = style_hash(style) if style else "", base.fingerprint(), base.decoder_fingerprint()
    records = [plan.record(phrase, seed, *hashes) for seed in seeds]
    if record:
        refuse_other(request.again, record, records[0])
        if not record.decoder:
            yield Log(f"{request.again} does not say with which autoencoder it was drawn: with another one than "
                      f"{base.folder / 'vae'} it looked a little different")
    drawn = yield from draw_records(records, output, style, base, lean, request.overwrite)
    files = [path for path, _ in drawn]
    if len(drawn) > 1:
        cells = [(f"seed {seed}", picture) for seed, (_, picture) in zip(seeds, drawn)]
        files.append(write_sheet_of_seeds(output, cells, request.overwrite))
        yield Written(files[-1])
    return files


def draw_records(records: Sequence[Record], output: Path, style: Optional[Style], base: Base,
                 config: RunSettings, overwrite: bool) -> Job[List[Tuple[Path, Image.Image]]]:
    """The pictures of these records, which differ in their seeds alone, with their files."""
    pipeline, size, drawn, several = Pipeline(base, config), config.sampling.batch, [], len(records) > 1
    refuse_reserved(pipeline, style, [records[0].prompt])
    for batch in [records[i:i + size] for i in range(0, len(records), size)]:
        if several:
            yield Progress("pictures", len(drawn), len(records), "picture", f"seed {batch[0].seed}")
        phrases, seeds = [one.prompt for one in batch], [one.seed for one in batch]
        pictures = yield from draw_pictures(pipeline, style, phrases, seeds, config.sampling, records[0].settings,
                                            once=len(batch) == len(records) and not base.offloaded,
                                            control=records[0].control, content=records[0].content)
        for one, picture in zip(batch, pictures):
            saved = saved_size(picture, one.sampling.saved_size)
            path = save_picture(file_of_seed(output, one.seed) if several else output, saved, one.chunks(), overwrite)
            drawn.append((path, saved))
            yield Drawn(path, saved, one)
    if several:
        yield Progress("pictures", len(drawn), len(records), "picture")
    return drawn


def write_sheet_of_seeds(path: Path, cells: Sequence[Tuple[str, Image.Image]], overwrite: bool) -> Path:
    """A contact sheet of labelled pictures of one size; its file."""
    cell = min(CELL, max(max(picture.size) for _, picture in cells))
    sheet = contact_sheet([cells[i:i + COLUMNS] for i in range(0, len(cells), COLUMNS)], cell)
    return save_picture(path, sheet, replace=overwrite)
