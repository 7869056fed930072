"""Draw a set of prompts that share one look: of the first of them, of words, or of reference pictures. No training."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

from PIL import Image

from styleblend.adapters.style import Style, load_style, style_hash
from styleblend.base.base import Base, base_for_drawing
from styleblend.base.control_maps import control_map
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim
from styleblend.files.names import check_distinct
from styleblend.files.output_files import refuse_no_file, refuse_taken, refuse_unwritable
from styleblend.files.pictures import contact_sheet, is_whole, load_picture
from styleblend.files.prompts import make_prompt, phrase_of
from styleblend.files.saved_pictures import save_picture
from styleblend.files.shipped import adapters_of
from styleblend.files.whole_files import remove_unfinished
from styleblend.jobs.board import saved_size
from styleblend.jobs.drawing import draw_pictures
from styleblend.jobs.events import Drawn, Job, Log, Progress, Written
from styleblend.jobs.memory import within
from styleblend.jobs.plans import Plan, plan_for
from styleblend.methods.drawn_with import with_negative
from styleblend.methods.style_aligned import with_look
from styleblend.pipeline import Pipeline
from styleblend.record import Record, changes, read_record
from styleblend.settings import KINDS, LARGEST_SEED, AlignSettings, ControlSettings, RunSettings, with_sampling

METHOD, SHEET, PLAIN, LOCK = "style_aligned", "sheet.png", "plain", ".align"
COLUMNS, CELL = 6, 192


@dataclass(frozen=True)
class AlignRequest:
    """A set of `prompts` that share a look. Prompt n has the seed `seed` + n (None: the config's).

    Without reference pictures the first prompt's picture is the reference. `style`: a learned style of StyleBlend that
    the set is drawn in as well. `compare` draws each prompt and seed without sharing beside it. `sampling`, `negative`
    and `max_memory` as in `styleblend.jobs.draw`. What is whole in the folder `output` is kept, unless `overwrite`.
    """

    settings: RunSettings
    prompts: Sequence[str]
    align: AlignSettings
    output: Path = Path("aligned")
    style: Optional[str] = None
    seed: Optional[int] = None
    negative: Optional[str] = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    compare: bool = False
    overwrite: bool = False
    max_memory: Optional[str] = None
    control: Tuple[ControlSettings, ...] = ()  # pictures that hold the layout of the set, not of its reference


@dataclass(frozen=True)
class AlignedPicture:
    """One picture of the set."""

    phrase: str
    seed: int
    path: Path
    plan: Plan  # aligned, or without sharing beside it

    def record(self, *hashes: str) -> Record:
        return self.plan.record(self.phrase, self.seed, *hashes)


def set_of(request: AlignRequest, plan: Plan) -> List[AlignedPicture]:
    """The pictures of the set. StyleBlendError for prompts that cannot be one."""
    prompts = [make_prompt(text) for text in request.prompts if text.strip()]
    if not prompts:
        raise StyleBlendError('there is nothing to draw: give --prompts "A toy train,A toy car"')
    phrases, names = [prompt.text for prompt in prompts], [prompt.name for prompt in prompts]
    check_distinct(names, "--prompts")
    if len(set(names)) < len(names):
        raise StyleBlendError("a prompt stands twice in --prompts: its picture would be replaced by the second")
    first = plan.sampling.seed if request.seed is None else request.seed
    if not 0 <= first <= LARGEST_SEED - len(phrases):
        raise StyleBlendError(f"--seed {first} is no seed: give a number from 0 to {LARGEST_SEED - len(phrases)}")
    return [AlignedPicture(phrase, first + n, request.output / f"{name}.png", plan)
            for n, (phrase, name) in enumerate(zip(phrases, names))]


def plan_of_set(request: AlignRequest) -> Plan:
    """How the set is drawn: the config, the learned style's own settings, then what the request says."""
    plan = plan_for(request.settings, request.style)
    changed = dict(request.sampling)
    if {"width", "height"} & set(changed):
        changed.setdefault("saved_size", None)
    sampling = with_negative(with_sampling(plan.sampling, changed, "the options"), plan.adapters, request.negative)
    return replace(plan, own=KINDS[METHOD](), sampling=sampling, settings=request.align, control=request.control)


def with_reference(plan: Plan, places: Sequence[AlignedPicture]) -> Plan:
    """The plan with the first picture of the set as its reference, where nothing else is one."""
    own = plan.settings
    if own.references or own.reference_prompt:
        return plan
    said = {"reference_prompt": places[0].phrase}
    if own.reference_seed is None:
        said["reference_seed"] = places[0].seed
    return replace(plan, settings=own.model_copy(update=said))


def align(request: AlignRequest) -> Job[List[Path]]:
    """Draw what is missing of the set, and a contact sheet; returns the files that were drawn."""
    plan = plan_of_set(request)
    places = set_of(request, plan)
    plan = with_reference(plan, places)
    places = [replace(place, plan=plan) for place in places]
    if request.compare:
        places += [beside(request, place) for place in places]
    config = plan.config.model_copy(update={"sampling": plan.sampling})
    lean = yield from within(config, "drawing", request.max_memory)
    refuse_unwritable_set(request, places)
    with claim(request.output, LOCK):
        remove_unfinished(request.output, request.output / PLAIN)
        todo = [place for place in places if request.overwrite or not is_whole(place.path)]
        yield from say_what_differs([place for place in places if place not in todo])
        drawn = (yield from draw_places(todo, base_for_drawing(lean), lean)) if todo else []
        yield Written(write_sheet_of_set(request, places))
    return drawn


def refuse_unwritable_set(request: AlignRequest, places: Sequence[AlignedPicture]) -> None:
    """StyleBlendError where a picture cannot be written, or the sheet would replace what is no set's."""
    for folder in dict.fromkeys(place.path.parent for place in places):
        refuse_unwritable(folder)
    for place in places:
        refuse_no_file(place.path)
    if not (request.output / f"{LOCK}.lock").exists() and not any(place.path.exists() for place in places):
        refuse_taken(request.output / SHEET, request.overwrite)


def beside(request: AlignRequest, place: AlignedPicture) -> AlignedPicture:
    """The same prompt and seed without a reference, with the same words of the look."""
    plan = replace(plan_for(request.settings, request.style), sampling=place.plan.sampling,
                   control=request.control)
    phrase = phrase_of(with_look(place.phrase, request.align.look))
    return replace(place, phrase=phrase, path=request.output / PLAIN / place.path.name, plan=plan)


def say_what_differs(kept: Sequence[AlignedPicture]) -> Job[None]:
    """A sentence on pictures that are kept, although they would come out otherwise now."""
    found = {}
    for place in kept:
        try:
            different = changes(read_record(place.path), place.record())
        except StyleBlendError:
            continue  # drawn by something else: nothing is known of it
        if different:
            found[place.path.name] = different
    if found:
        what = ", ".join(sorted(set().union(*found.values())))
        yield Log(f"kept, although drawn with other {what} than now: {', '.join(list(found)[:3])}"
                  f"{f' and {len(found) - 3} more' if len(found) > 3 else ''}; --overwrite draws again what is there")


def draw_places(todo: Sequence[AlignedPicture], base: Base, lean: RunSettings) -> Job[List[Path]]:
    """The missing pictures, in batches that fit: each has the reference's rows beside its own."""
    pipeline, size, drawn = Pipeline(base, lean), lean.sampling.batch, []
    name = todo[0].plan.name
    style = load_style(adapters_of(lean.adapters, name), name, base) if name else None
    hashes = style_hash(style) if style else "", base.fingerprint(), base.decoder_fingerprint()
    for kind in dict.fromkeys(type(place.plan.settings) for place in todo):
        own = [place for place in todo if type(place.plan.settings) is kind]
        for batch in [own[i:i + size] for i in range(0, len(own), size)]:
            yield Progress("pictures", len(drawn), len(todo), "picture", batch[0].phrase)
            drawn += yield from draw_batch(batch, pipeline, style, hashes)
    yield Progress("pictures", len(drawn), len(todo), "picture")
    return drawn


def draw_batch(batch: Sequence[AlignedPicture], pipeline: Pipeline, style: Optional[Style],
               hashes: Tuple) -> Job[List[Path]]:
    """Pictures that are drawn together."""
    plan, records = batch[0].plan, [place.record(*hashes) for place in batch]
    pictures = yield from draw_pictures(pipeline, style, [record.prompt for record in records],
                                        [record.seed for record in records], plan.sampling, plan.settings,
                                        control=plan.control)
    for place, record, picture in zip(batch, records, pictures):
        saved = saved_size(picture, record.sampling.saved_size)
        save_picture(place.path, saved, record.chunks())
        yield Drawn(place.path, saved, record)
    return [place.path for place in batch]


def write_sheet_of_set(request: AlignRequest, places: Sequence[AlignedPicture]) -> Path:
    """The reference pictures and control maps, the set, and below it the set without sharing."""
    references: List[Tuple[str, Image.Image]] = [
        (f"reference {weight:.2g}", load_picture(Path(one.picture), request.settings.pictures.max_pixels))
        for one, weight in zip(request.align.counted(), request.align.weights())]
    references += [(one.kind, Image.fromarray(control_map(one, place.plan.sampling.width, place.plan.sampling.height,
                                                         request.settings.depth_estimator)))
                   for place in places[:1] for one in request.control]
    rows = [references] if references else []
    for folder in (request.output, request.output / PLAIN):
        cells = [(place.path.stem, load_picture(place.path)) for place in places if place.path.parent == folder]
        rows += [cells[i:i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    path = request.output / SHEET
    save_picture(path, contact_sheet(rows, CELL))
    return path
