"""Draw a whole board: every prompt of every style (`<output>/<style>/<Prompt>.png`), contact sheets, one web page."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
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
from styleblend.files.pictures import contact_sheet, load_picture, save_png, whole_picture
from styleblend.files.prompts import Prompt, prompt_file, style_prompts
from styleblend.files.shipped import adapters_of, data_of
from styleblend.files.whole_files import remove_unfinished, write_bytes
from styleblend.files.claims import claim, claim_files
from styleblend.jobs.choices import Choice, chosen_prompts, chosen_styles, not_listed, part_of
from styleblend.jobs.draw_items import Drawer, DrawItem, Spread
from styleblend.jobs.drawing import prepared, refuse_reserved, request_for
from styleblend.jobs.events import Drawn, Job, Log, Progress, Written
from styleblend.jobs.memory import within
from styleblend.jobs.missing_pictures import Wanted, batches, missing_of, refuse_outputs
from styleblend.jobs.plans import Plan, plan_for
from styleblend.pipeline import Pipeline
from styleblend.settings import RunSettings, Source

SIDE_BY_SIDE = "or give each process other --styles, or parts of one division such as --shard 1/2 and --shard 2/2"
COLUMNS = 6  # of a contact sheet
LOCK, PAGE = ".board", "index.html"  # in the output folder


@dataclass(frozen=True)
class BoardRequest:
    """What is to be drawn.

    `styles` and `prompts` as on the command line ("00,01"; "Cat,Dog" or "3"); None: all that there are. `prompts` may
    also be prompts themselves, and `sources` say of which media they were made. `shard`: part I
    of N ("2/3") of the work. `overwrite` draws again what is there. `max_memory`, such as "8GB", makes the settings
    leaner until the work fits, or refuses it.
    """

    settings: RunSettings
    styles: Optional[str] = None
    prompts: Choice = None
    shard: str = "1/1"
    overwrite: bool = False
    max_memory: Optional[str] = None
    sources: Tuple[Source, ...] = ()


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

    def wanted(self, place: Place) -> Wanted:
        """A place with what its picture is to say of itself."""
        return Wanted(place.path, self.plans[place.style].record_of(place.prompt))


def draw_board(request: BoardRequest, base: Optional[Base] = None, spread: Optional[Spread] = None) -> Job[List[Path]]:
    """Draw what is missing (`overwrite`: everything) of this shard; returns the files that were drawn.

    `base`: where it is loaded already. `spread`: lets other machines draw (`styleblend.cluster`). Raises Busy, before
    it removes or draws anything, when another process draws some of the same pictures now.
    """
    settings = request.settings.model_copy(update={"dtype": base.dtype}) if base else request.settings
    settings = yield from within(settings, "drawing", request.max_memory)
    output = Path(settings.output)
    names, left_out = chosen_styles(settings, request.styles, request.prompts)
    for sentence in [*left_out, *not_listed(settings, names, request.prompts), *with_other_pictures(settings, names)]:
        yield Log(sentence)
    places = [Place(n, p, output / n / f"{p.name}.png") for n in names
              for p in chosen_prompts(data_of(settings.data, n), request.prompts)]
    mine = part_of(places, request.shard)
    styles = list(dict.fromkeys(place.style for place in mine))
    sheets = [output / f"{name}.png" for name in styles]
    refuse_outputs([place.path for place in mine], [output / PAGE, *sheets], output / f"{LOCK}.lock", request.overwrite)
    with claim_files(output, LOCK, [f"{p.style}/{p.path.name}" for p in mine], SIDE_BY_SIDE):
        remove_unfinished(output, *(output / name for name in styles))
        drawn = yield from draw_missing(settings, mine, request, base, spread)
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


def draw_missing(settings: RunSettings, mine: Sequence[Place], request: BoardRequest, base: Optional[Base],
                 spread: Optional[Spread]) -> Job[List[Path]]:
    """The pictures of `draw_board`."""
    plans = {name: replace(plan_for(settings, name), sources=request.sources)
             for name in dict.fromkeys(place.style for place in mine)}
    missing = yield from missing_of([Wanted(place.path, plans[place.style].record_of(place.prompt)) for place in mine],
                                    request.overwrite)
    todo = [place for place in mine if place.path in missing]
    board = Board(settings, mine, todo, plans)
    if not todo:
        return []
    drawer = None if spread else Drawer(base or base_for_drawing(settings), settings)
    if drawer:
        refuse_reserved(drawer.pipeline, None, [place.prompt.text for place in todo])  # before the first one is drawn
        for name in plans:
            yield from refuse_undrawable(drawer.pipeline, name, plans[name])
    # all at once: a run that is stopped goes on without --overwrite, and old and new are never mixed
    for place in mine if request.overwrite else []:
        place.path.unlink(missing_ok=True)
    items = [item for name in dict.fromkeys(place.style for place in todo) for item in items_of(board, name)]
    if spread:
        return [path for done in (yield from spread(items)) if done for path in done.files]
    yield board.progress()
    for item in items:
        yield from draw_item(board, item, drawer)
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


def items_of(board: Board, name: str) -> List[DrawItem]:
    """The batches of one style that have something to draw."""
    own, todo = [place for place in board.places if place.style == name], set(board.todo)
    return [DrawItem(board.plans[name], tuple(board.wanted(place) for place in batch),
                     frozenset(place.path for place in batch if place in todo))
            for batch in batches(own, todo, board.settings.sampling.batch)]


def draw_item(board: Board, item: DrawItem, drawer: Drawer) -> Job[None]:
    """Draw one batch here, with the progress of the board."""
    titles = {one.path: f"{item.plan.name} {one.path.stem}" for one in item.wanted}
    yield board.progress(titles[item.wanted[0].path])
    for event in item.run(drawer):
        yield event
        if isinstance(event, Drawn):
            board.drawn.append(event.path)
            yield board.progress(titles[event.path])


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
