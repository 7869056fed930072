"""Draw a set of prompts that share one look: of the first of them, of words, or of reference pictures. No training."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Collection, List, Mapping, NamedTuple, Optional, Sequence

from PIL import Image

from styleblend.adapters.parts import PARTS
from styleblend.base.base import base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim
from styleblend.files.names import check_distinct
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.pictures import check_picture, contact_sheet, is_whole, load_picture
from styleblend.files.prompts import make_prompt, phrase_of
from styleblend.files.saved_pictures import save_picture
from styleblend.files.whole_files import remove_unfinished
from styleblend.jobs.aligned_sets import DRAWN, PLAIN
from styleblend.jobs.choices import ready_pictures
from styleblend.jobs.draw_items import Drawer, DrawItem
from styleblend.jobs.events import Job, Log, Progress, Written
from styleblend.jobs.memory import beside, within
from styleblend.jobs.missing_pictures import Wanted, batches, missing_of, refuse_outputs
from styleblend.jobs.plans import Plan, plan_for, with_options
from styleblend.methods.style_aligned import StyleAligned, reference_of, with_look
from styleblend.settings import (FIRST_METHOD, KINDS, LARGEST_SEED, AlignSettings, ControlSettings, RunSettings,
                                 SamplingSettings, Source)

SHEET, MAPS, LOCK = "sheet.png", "control", ".align"  # in the output folder
COLUMNS, CELL = 6, 192  # of the sheet; pixels of a picture in it


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
    control: Sequence[ControlSettings] = ()  # pictures that hold the layout of the set, not of its reference
    sources: Sequence[Source] = ()  # of which media the first prompt was made

    def map_file(self, number: int) -> Path:
        """Where the map of a control picture is written."""
        return self.output / MAPS / f"{number + 1}-{self.control[number].kind}.png"


class AlignedPicture(NamedTuple):
    """One picture of the set, or the same one without sharing."""

    phrase: str
    seed: int
    path: Path
    plan: Plan

    def wanted(self) -> Wanted:
        """Its file, and what it is to say of itself."""
        return Wanted(self.path, self.plan.record(self.phrase, self.seed))


def align(request: AlignRequest) -> Job[List[Path]]:
    """Draw what is missing of the set, and a contact sheet; returns the files that were drawn."""
    places = pictures_of_set(request)
    check_what_is_looked_at(request, places[0].plan.sampling)
    config = places[0].plan.config.model_copy(update={"sampling": places[0].plan.sampling})
    lean = yield from within(config, "drawing", request.max_memory,
                             beside(config, request.control, len(reference_of(request.align).weights)))
    refuse_outputs([place.path for place in places], [request.output / SHEET], request.output / f"{LOCK}.lock",
                   request.overwrite)
    refuse_unwritable(request.output / MAPS)
    sentence = said_of_weights(request.align)
    if sentence:
        yield Log(sentence)
    with claim(request.output, LOCK):
        remove_unfinished(request.output, request.output / PLAIN, request.output / MAPS)
        missing = yield from missing_of([place.wanted() for place in places], request.overwrite)
        if missing and request.align.full_attention_share:
            missing = {place.path for place in places}  # each picture depends on the others of its batch
        drawn = (yield from draw_set(request, places, missing, lean)) if missing else []
        if drawn or not is_whole(request.output / SHEET):
            write_sheet_of_set(request, places)
        yield Written(request.output / SHEET)
    return drawn


def pictures_of_set(request: AlignRequest) -> List[AlignedPicture]:
    """The pictures of the set, then those beside it. StyleBlendError for prompts that cannot be a set."""
    prompts = [make_prompt(text) for text in request.prompts if text.strip()]
    if not prompts:
        raise StyleBlendError('there is nothing to draw: give --prompts "A toy train,A toy car"')
    names = [prompt.name for prompt in prompts]
    taken = next((name for name in names if f"{name}.png".lower() in (SHEET, DRAWN)), None)
    if taken:
        raise StyleBlendError(f"the picture of the prompt {taken!r} would have the name of the contact sheet, {SHEET}, "
                              f"or of the reference, {DRAWN}: write more, such as 'A sheet of paper'")
    check_distinct(names, "--prompts")
    if len(set(names)) < len(names):
        raise StyleBlendError("a prompt stands twice in --prompts: its picture would be replaced by the second")
    plain = replace(with_options(plan_for(request.settings, request.style), request.sampling, request.negative),
                    control=tuple(request.control))
    if not set(plain.adapters) <= set(PARTS[FIRST_METHOD]):
        raise StyleBlendError(f"--style {plain.name} has no effect on a set: it is a style of {plain.own.method}, and "
                              f"{FIRST_METHOD}'s are drawn in")
    first = plain.sampling.seed if request.seed is None else request.seed
    if not 0 <= first <= LARGEST_SEED - len(prompts):
        raise StyleBlendError(f"--seed {first} is no seed: give a number from 0 to {LARGEST_SEED - len(prompts)}")
    aligned = replace(plain, own=KINDS[StyleAligned.name](),
                      settings=with_reference(request.align, prompts[0].text, first))
    sources = [tuple(request.sources), *[()] * (len(prompts) - 1)]
    found = [AlignedPicture(prompt.text, first + n, request.output / f"{prompt.name}.png",
                            replace(aligned, sources=own)) for n, (prompt, own) in enumerate(zip(prompts, sources))]
    beside = [place._replace(phrase=phrase_of(with_look(place.phrase, request.align.look)),
                             plan=replace(plain, sources=place.plan.sources),
                             path=request.output / PLAIN / place.path.name) for place in found if request.compare]
    return found + beside + drawn_reference(request, found[0])


def drawn_reference(request: AlignRequest, first: AlignedPicture) -> List[AlignedPicture]:
    """The reference, where words of its own draw it.

    It is drawn as one of the set: with the prompt and the seed of the reference's row, that equals the row.
    """
    prompt, seed = request.align.reference_prompt, request.align.reference_seed
    if not prompt or request.align.full_attention_share:  # there the set would look at one picture more
        return []
    plan = replace(first.plan, control=(), sources=())
    if request.style and not request.align.style_on_reference:
        plain = with_options(plan_for(request.settings, None), request.sampling, request.negative)
        plan = replace(plain, own=plan.own, settings=plan.settings, sampling=plan.sampling)
    seed = plan.sampling.seed if seed is None else seed
    return [AlignedPicture(phrase_of(prompt), seed, request.output / DRAWN, plan)]


def check_what_is_looked_at(request: AlignRequest, sampling: SamplingSettings) -> None:
    """StyleBlendError for a reference or control picture that cannot be read, or references that cannot be followed."""
    request.align.refuse_unfit(sampling.sampler, sampling.steps)
    for picture in request.align.pictures():
        check_picture(Path(picture), sampling.width, sampling.height, max_pixels=request.settings.pictures.max_pixels)
    ready_pictures(request.settings, *(one.picture for one in request.control))


def said_of_weights(settings: AlignSettings) -> Optional[str]:
    """A sentence on weights that are different and do not add up to 1."""
    given = [one.weight for one in settings.counted()]
    if len(set(given)) < 2 or abs(sum(given) - 1) < 1e-6:
        return None
    counted = ", ".join(f"{weight:.2g}" for weight in settings.weights())
    return f"the weights of the references add up to {sum(given):g}: they count as {counted}"


def with_reference(settings: AlignSettings, phrase: str, seed: int) -> AlignSettings:
    """The settings with this picture as the reference, where nothing else is one."""
    if settings.references or settings.reference_prompt:
        return settings
    seed = seed if settings.reference_seed is None else settings.reference_seed
    return settings.model_copy(update={"reference_prompt": phrase, "reference_seed": seed})


def draw_set(request: AlignRequest, places: Sequence[AlignedPicture], missing: Collection[Path],
             lean: RunSettings) -> Job[List[Path]]:
    """The missing pictures, in batches that fit: each has the reference's rows beside its own."""
    drawer, drawn = Drawer(base_for_drawing(lean), lean), []
    for number, control in enumerate(request.control):
        save_picture(request.map_file(number), Image.fromarray(drawer.pipeline.steering.map(control, lean.sampling)))
    for _, group in groupby(places, lambda place: (place.path.parent, place.plan.name, place.plan.control)):
        own = list(group)
        for batch in batches(own, [place for place in own if place.path in missing], lean.sampling.batch):
            yield Progress("pictures", len(drawn), len(missing), "picture", batch[0].phrase)
            item = DrawItem(own[0].plan, tuple(place.wanted() for place in batch), frozenset(missing))
            drawn += (yield from item.run(drawer)).files
    yield Progress("pictures", len(drawn), len(missing), "picture")
    return drawn


def write_sheet_of_set(request: AlignRequest, places: Sequence[AlignedPicture]) -> None:
    """The references and control maps, the set, and below it the set without sharing."""
    top = [(f"reference {weight:.2g}", load_picture(Path(one.picture), request.settings.pictures.max_pixels))
           for one, weight in zip(request.align.counted(), request.align.weights())]
    top += [("reference", load_picture(place.path)) for place in places if place.path.name == DRAWN]
    maps = [request.map_file(number) for number in range(len(request.control))]
    top += [(path.stem, load_picture(path)) for path in maps if is_whole(path)]
    rows = [top] if top else []
    shared = [place for place in places if place.path.name != DRAWN]
    for _, own in groupby(shared, lambda place: place.path.parent):
        cells = [(place.path.stem, load_picture(place.path)) for place in own]
        rows += [cells[i:i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    save_picture(request.output / SHEET, contact_sheet(rows, CELL))
