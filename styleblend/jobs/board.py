"""Draw a whole board: every prompt of every style (`<output>/<style>/<Prompt>.png`), contact sheets, one web page."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from jinja2 import Environment, PackageLoader
from PIL import Image

from styleblend.adapters.learned_from import changed_since
from styleblend.adapters.style import load_style
from styleblend.base.base import Base, base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.captions import pictures_if_any
from styleblend.files.names import composed
from styleblend.files.output_files import refuse_no_file, refuse_taken, refuse_unwritable
from styleblend.files.pictures import contact_sheet, is_whole, load_picture, save_png, whole_picture
from styleblend.files.saved_pictures import save_picture
from styleblend.files.prompts import Prompt, prompt_file, style_prompts
from styleblend.files.shipped import adapters_of, data_of
from styleblend.files.whole_files import remove_unfinished, write_bytes
from styleblend.files.claims import claim, claim_files
from styleblend.jobs.choices import chosen_prompts, chosen_styles, not_listed, part_of
from styleblend.jobs.drawing import draw_pictures, prepared, refuse_reserved, request_for
from styleblend.jobs.events import Drawn, Job, Log, Progress, Written
from styleblend.jobs.memory import within
from styleblend.jobs.plans import Plan, plan_for
from styleblend.pipeline import Pipeline
from styleblend.record import changes, read_record
from styleblend.adapters.style import style_hash
from styleblend.settings import RunSettings

SIDE_BY_SIDE = "or give each process other --styles, or parts of one division such as --shard 1/2 and --shard 2/2"
COLUMNS = 6  # of a contact sheet
LOCK, PAGE = ".board", "index.html"  # in the output folder


@dataclass(frozen=True)
class BoardRequest:
    """What is to be drawn.

    `styles` and `prompts` as on the command line ("00,01"; "Cat,Dog" or "3"); None: all that there are. `shard`: part I
    of N ("2/3") of the work. `overwrite` draws again what is there. `max_memory`, such as "8GB", makes the settings
    leaner until the work fits, or refuses it.
    """

    settings: RunSettings
    styles: Optional[str] = None
    prompts: Optional[str] = None
    shard: str = "1/1"
    overwrite: bool = False
    max_memory: Optional[str] = None


@dataclass(frozen=True)
class Place:
    """One picture of the board."""

    style: str
    prompt: Prompt
    path: Path


@dataclass
class Board:
    """The places of one run: which are to be filled, and how the pictures of each style are drawn."""

    settings: RunSettings
    places: Sequence[Place]
    todo: Sequence[Place]
    plans: Dict[str, Plan]
    drawn: List[Path] = field(default_factory=list)

    def progress(self, note: str = "") -> Progress:
        there = len(self.places) - len(self.todo) + len(self.drawn)
        return Progress("pictures", there, len(self.places), "picture", note)

    def batches(self, style: str) -> List[List[Place]]:
        """The places of a style that are drawn together, as an unbroken run draws them.

        Those without anything to do are left out.
        """
        own, size = [place for place in self.places if place.style == style], self.settings.sampling.batch
        todo = set(self.todo)
        return [batch for batch in (own[i:i + size] for i in range(0, len(own), size)) if todo & set(batch)]


def saved_size(picture: Image.Image, longer: Optional[int]) -> Image.Image:
    """The picture with its longer side at `longer` pixels; None: as drawn."""
    if not longer or max(picture.size) == longer:
        return picture
    factor = longer / max(picture.size)
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.BICUBIC)


def old_pictures(kept: Sequence[Place], plans: Dict[str, Plan]) -> Optional[str]:
    """A sentence on pictures that are kept, although they would come out otherwise now.

    As after another training, or with other settings.
    """
    old = {}
    for place in kept:
        try:
            different = changes(read_record(place.path), plans[place.style].record_of(place.prompt))
        except StyleBlendError:
            continue  # drawn by something else: nothing is known of it
        if different:
            old[f"{place.style}/{place.path.name}"] = different
    if not old:
        return None
    what = ", ".join(sorted(set().union(*old.values())))
    named = ", ".join(list(old)[:3]) + (f" and {len(old) - 3} more" if len(old) > 3 else "")
    return f"kept, although drawn with other {what} than now: {named}; --overwrite draws again what is there"


def draw_board(request: BoardRequest, base: Optional[Base] = None) -> Job[List[Path]]:
    """Draw what is missing (`overwrite`: everything) of this shard; returns the files that were drawn.

    `base`: where it is loaded already. Raises Busy, before it removes or draws anything, when another process draws
    some of the same pictures now.
    """
    settings = yield from within(request.settings, "drawing", request.max_memory)
    settings = settings.model_copy(update={"dtype": base.dtype}) if base else settings
    output = Path(settings.output)
    names, left_out = chosen_styles(settings, request.styles, request.prompts)
    for sentence in [*left_out, *not_listed(settings, names, request.prompts), *with_other_pictures(settings, names)]:
        yield Log(sentence)
    places = [Place(n, p, output / n / f"{p.name}.png") for n in names
              for p in chosen_prompts(data_of(settings.data, n), request.prompts)]
    mine = part_of(places, request.shard)
    styles = list(dict.fromkeys(place.style for place in mine))
    refuse_outputs(output, mine, request.overwrite)
    with claim_files(output, LOCK, [f"{p.style}/{p.path.name}" for p in mine], SIDE_BY_SIDE):
        remove_unfinished(output, *(output / name for name in styles))
        drawn = yield from draw_missing(settings, mine, request.overwrite, base)
        with claim(output, ".index", wait=True):  # what the last of several workers writes shows the pictures of all
            for name in styles:
                yield Written(write_sheet(settings, name))
            yield Written(write_page(output))
    return drawn


def with_other_pictures(settings: RunSettings, names: Sequence[str]) -> List[str]:
    """A sentence on each style whose pictures are others than those that it was learned from."""
    found = {name: changed_since(Path(settings.adapters) / name, data_of(settings.data, name)) for name in names}
    return [f"the pictures of {name} have changed since it was learned ({others}): train it again with --overwrite"
            for name, others in found.items() if others]


def refuse_outputs(output: Path, places: Sequence[Place], overwrite: bool) -> None:
    """StyleBlendError where a picture cannot be written, or a page or sheet would replace what is no board's."""
    for folder in dict.fromkeys(place.path.parent for place in places):
        refuse_unwritable(folder)
    for place in places:
        refuse_no_file(place.path)
    drawn_here = (output / f"{LOCK}.lock").exists() or any(place.path.exists() for place in places)
    if not drawn_here:
        for path in [output / PAGE, *(output / f"{name}.png" for name in dict.fromkeys(p.style for p in places))]:
            refuse_taken(path, overwrite)


def draw_missing(settings: RunSettings, mine: Sequence[Place], overwrite: bool,
                 base: Optional[Base]) -> Job[List[Path]]:
    """The pictures of `draw_board`.

    A batch is drawn whole if one of its pictures is missing: the last bits of a picture depend on its batch, and a run
    that was stopped and started again gives the same files as an unbroken one.
    """
    plans = {name: plan_for(settings, name) for name in dict.fromkeys(place.style for place in mine)}
    todo = [place for place in mine if overwrite or not is_whole(place.path)]
    sentence = old_pictures([place for place in mine if place not in set(todo)], plans)
    if sentence:
        yield Log(sentence)
    board = Board(settings, mine, todo, plans)
    if todo:
        base = base or base_for_drawing(settings)
        pipeline = Pipeline(base)
        refuse_reserved(pipeline, None, [place.prompt.text for place in todo])  # before the first one is drawn
        for name in plans:
            yield from refuse_undrawable(pipeline, name, plans[name])
        # all at once: a run that is stopped goes on without --overwrite, and old and new are never mixed
        for place in mine if overwrite else []:
            place.path.unlink(missing_ok=True)
        yield board.progress()
        for name in dict.fromkeys(place.style for place in todo):
            yield from draw_style(board, name, pipeline, base)
    return board.drawn


def refuse_undrawable(pipeline: Pipeline, name: str, plan: Plan) -> Job[None]:
    """StyleBlendError for a style with a part that is missing or damaged, or with settings that the base cannot follow.

    It is asked of every style before a picture is removed or drawn.
    """
    style = load_style(adapters_of(plan.config.adapters, name), name, pipeline.base)
    try:
        request = yield from prepared(pipeline, request_for(style, ["A cat"], [0], plan.sampling, plan.settings))
        pipeline.recipe(request)
    except StyleBlendError as error:
        raise StyleBlendError(f"style {name}: {error}") from None


def draw_style(board: Board, name: str, pipeline, base: Base) -> Job[None]:
    """The pictures of one style that are to be drawn, batch by batch."""
    style = load_style(adapters_of(board.settings.adapters, name), name, base)
    plan, todo = board.plans[name], set(board.todo)
    hashes = style_hash(style), base.fingerprint(), base.decoder_fingerprint()
    for batch in board.batches(name):
        yield board.progress(f"{name} {batch[0].prompt.name}")
        records = [plan.record_of(place.prompt, *hashes) for place in batch]
        pictures = yield from draw_pictures(pipeline, style, [r.prompt for r in records], [r.seed for r in records],
                                            plan.sampling, plan.settings)
        for place, record, picture in zip(batch, records, pictures):
            if place in todo:
                saved = saved_size(picture, record.sampling.saved_size)
                save_picture(place.path, saved, record.chunks())
                board.drawn.append(place.path)
                yield Drawn(place.path, saved, record)
                yield board.progress(f"{name} {place.prompt.name}")


def pictures_there(settings: RunSettings, name: str) -> List[Tuple[str, Image.Image]]:
    """Every picture of a style in the output folder that is whole, with its name.

    Those of prompt.json come first, in their order.
    """
    folder, data = Path(settings.output) / name, data_of(settings.data, name)
    order = [p.name for p in style_prompts(data)] if prompt_file(data).exists() else []
    place = {prompt: number for number, prompt in enumerate(order)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (place.get(composed(path.stem), len(place)), path.name))
    return [(composed(path.stem), picture) for path in paths for picture in [whole_picture(path)] if picture]


def write_sheet(settings: RunSettings, name: str) -> Path:
    """`<output>/<style>.png`: the style's own pictures on top, below them every picture that is drawn.

    A style that was loaded may have no pictures of its own: then the sheet says so.
    """
    top = [(p.caption, load_picture(p.path, settings.pictures.max_pixels))
           for p in pictures_if_any(data_of(settings.data, name))[:COLUMNS]]
    top = top or [("no pictures of its own", Image.new("RGB", (1, 1), "white"))]
    cells, path = pictures_there(settings, name), Path(settings.output) / f"{name}.png"
    save_png(path, contact_sheet([top] + [cells[i:i + COLUMNS] for i in range(0, len(cells), COLUMNS)]))
    return path


def write_page(output: Path) -> Path:
    """The page with everything that lies in the output folder."""
    styles: Dict[str, list] = {}
    for folder in sorted(p for p in Path(output).iterdir() if p.is_dir()):
        pictures = sorted(folder.glob("*.png"))
        if pictures:
            styles[folder.name] = [(p.stem, f"{folder.name}/{p.name}") for p in pictures]
    pages = Environment(loader=PackageLoader("styleblend.jobs", "pages"), autoescape=True)
    page = pages.get_template("index.html").render(styles=styles)
    write_bytes(Path(output) / PAGE, page.encode("utf-8"))
    return Path(output) / PAGE
