"""Draw content pictures anew in a style, of any method: image to image, held by a ControlNet where there is one."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Collection, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from styleblend.base.base import base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.captions import NoPictures, StylePicture, read_pictures, shown_by
from styleblend.files.claims import claim
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.pictures import check_picture, near_by
from styleblend.files.prompts import phrase_of
from styleblend.files.shipped import own_or_shipped
from styleblend.files.whole_files import remove_unfinished
from styleblend.jobs.draw_items import Drawer, DrawItem
from styleblend.jobs.events import Job, Log, Progress
from styleblend.jobs.memory import beside, within
from styleblend.jobs.missing_pictures import Wanted, missing_of, refuse_outputs
from styleblend.jobs.plans import Plan, plan_for, with_options
from styleblend.methods.drawn_with import without_negatives
from styleblend.settings import ContentSettings, ControlSettings, RunSettings, Source, validated

LOCK = ".transfer"  # in the output folder
NONE = "none"  # no ControlNet is asked for
BY_ITSELF = ("depth", "canny")  # kinds of control that are tried where none is named: depth keeps least of the texture
STRENGTH = 0.8  # of the ControlNet, as published


@dataclass(frozen=True)
class TransferRequest:
    """What is drawn anew: `content`, a picture or a folder of them, in `style`, also a mix of several.

    `prompt` says what they show (None: a text beside a picture, or its name). `begin` and `strength` as in
    `ContentSettings`. `control`: kind of control picture that the content becomes; "none"; or None: depth or canny,
    whichever the config has a ControlNet for. `network`, `estimator`, `control_strength` as in `ControlSettings`.
    `negative` is empty unless it is given, as published. What is whole in the folder `output` is kept, unless
    `overwrite`. `max_memory` as in `styleblend.jobs.draw`.
    """

    settings: RunSettings
    style: str
    content: Path
    output: Path = Path("transferred")
    prompt: Optional[str] = None
    begin: str = "noise"
    strength: Optional[float] = None
    control: Optional[str] = None
    network: Optional[str] = None
    estimator: Optional[str] = None
    control_strength: Optional[float] = None  # STRENGTH
    seed: Optional[int] = None
    negative: Optional[str] = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    max_memory: Optional[str] = None
    sources: Tuple[Source, ...] = ()  # of which media `prompt` was made


class Transferred(NamedTuple):
    """One content picture: the file that it is drawn into, what it shows, and how it is drawn."""

    path: Path
    phrase: str
    plan: Plan

    def wanted(self) -> Wanted:
        return Wanted(self.path, self.plan.record(self.phrase, self.plan.sampling.seed))


def transfer(request: TransferRequest) -> Job[List[Path]]:
    """Draw what is missing; returns the files that were drawn."""
    plan, contents = plan_of_transfer(request), content_pictures(request)
    control, sentence = control_of(request)
    if sentence:
        yield Log(sentence)
    places = [placed(request, plan, control, one) for one in contents]
    config = plan.config.model_copy(update={"sampling": plan.sampling.model_copy(update={"batch": 1})})
    lean = yield from within(config, "drawing", request.max_memory, beside(config, places[0].plan.control))
    refuse_outputs([place.path for place in places], [], request.output / f"{LOCK}.lock", request.overwrite)
    refuse_unwritable(request.output)
    with claim(request.output, LOCK):
        remove_unfinished(request.output)
        missing = yield from missing_of([place.wanted() for place in places], request.overwrite)
        return (yield from draw_contents(places, missing, lean)) if missing else []


def draw_contents(places: Sequence[Transferred], missing: Collection[Path], lean: RunSettings) -> Job[List[Path]]:
    """The missing pictures, one after another: each begins from a content of its own."""
    drawer, drawn = Drawer(base_for_drawing(lean), lean), []
    for place in places:
        if place.path in missing:
            yield Progress("pictures", len(drawn), len(missing), "picture", place.path.stem)
            item = DrawItem(place.plan, (place.wanted(),), frozenset(missing))
            drawn += (yield from item.run(drawer)).files
    yield Progress("pictures", len(drawn), len(missing), "picture")
    return drawn


def plan_of_transfer(request: TransferRequest) -> Plan:
    """How all of them are drawn. Without a negative prompt, unless one is given."""
    plan = plan_for(request.settings, request.style)
    changes = {**request.sampling, **({} if request.seed is None else {"seed": request.seed})}
    plan = replace(with_options(plan, changes, request.negative), sources=request.sources)
    if request.negative is None:
        plan = replace(plan, sampling=without_negatives(plan.sampling))
    return plan


def placed(request: TransferRequest, plan: Plan, control: Optional[ControlSettings], one: StylePicture) -> Transferred:
    """One content picture with its own plan. StyleBlendError where it cannot be drawn as it is asked for."""
    said = {"picture": str(one.path), "begin": request.begin, "strength": request.strength}
    content = validated(ContentSettings, said, "the options")
    content.refuse_unfit(plan.sampling.sampler, plan.sampling.steps)
    check_picture(one.path, plan.sampling.width, plan.sampling.height,
                  max_pixels=plan.config.pictures.max_pixels)
    held = () if control is None else (control.model_copy(update={"picture": str(one.path)}),)
    phrase = one.phrase if request.prompt is None else request.prompt
    return Transferred(request.output / f"{one.name}.png", phrase_of(phrase),
                       replace(plan, content=content, control=held))


def content_pictures(request: TransferRequest) -> List[StylePicture]:
    """The pictures to draw anew. StyleBlendError where there are none."""
    path = Path(request.content)
    if path.is_dir():
        try:
            return read_pictures(path).pictures
        except NoPictures:
            raise StyleBlendError(f"{path} has no pictures: name a content picture, or a folder of them") from None
    if not path.is_file():
        raise StyleBlendError(f"the content picture {path} does not exist"
                              + (near_by(path) or ": name one, or a folder of them"))
    return [shown_by(path)]


def control_of(request: TransferRequest) -> Tuple[Optional[ControlSettings], Optional[str]]:
    """What the content pictures become for a ControlNet, and a sentence where there is none."""
    asked, known = request.control, request.settings.controlnets
    of_network = {"--controlnet": request.network, "--depth-estimator": request.estimator,
                  "--control-strength": request.control_strength}
    unused = next((option for option, value in of_network.items() if value is not None), None)
    if asked == NONE and unused:
        raise StyleBlendError(f"{unused} has no effect with --control none: leave it out")
    if asked == NONE or asked is None and request.begin == "inversion" and not unused:
        return None, None
    if asked is None and (request.network or request.begin == "inversion"):
        raise StyleBlendError(f"{unused} needs --control: say what is read of the content, canny or depth")
    kind = asked or next((kind for kind in BY_ITSELF if there(known.of(kind))), None)
    said = {"kind": kind or BY_ITSELF[0], "picture": str(request.content), "network": request.network,
            "estimator": request.estimator,
            "strength": STRENGTH if request.control_strength is None else request.control_strength}
    control = validated(ControlSettings, said, "the options")
    if kind is None or not there(request.network or known.of(kind)):
        what = f"no ControlNet for {kind}" if kind else "no ControlNet"
        return None, (f"{what} is there: drawn without, so that the layout holds by --strength alone (name one with "
                      "--controlnet, or controlnets: in the config)")
    return control, None


def there(folder: Optional[str]) -> bool:
    """Whether this ControlNet is on this machine."""
    return bool(folder) and own_or_shipped(folder).is_dir()
