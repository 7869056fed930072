"""A sheet over two or three settings: one picture for each combination, with the values along its sides."""
from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from PIL import Image, ImageDraw, ImageFont

from styleblend import __version__
from styleblend.base.base import base_for_drawing
from styleblend.jobs.choices import chosen_prompts, not_listed, ready_style
from styleblend.jobs.drawing import draw_pictures, refuse_reserved
from styleblend.jobs.events import Drawn, Job, Log, Progress, Written, result_of
from styleblend.jobs.grid_axes import OF_BLEND, OF_DIALS, OF_ENCODER, OF_MIX, OF_SAMPLING, Axis
from styleblend.jobs.plans import Plan, plan_for
from styleblend.errors import StyleBlendError
from styleblend.files.names import check_name
from styleblend.files.output_files import free_path, refuse_no_file, refuse_taken, refuse_unwritable_file
from styleblend.files.pictures import contact_sheet, shortened
from styleblend.files.prompts import Prompt
from styleblend.files.saved_pictures import format_of, refuse_unsaved, save_picture
from styleblend.files.shipped import adapters_of, data_of
from styleblend.adapters.style import style_hash
from styleblend.methods.drawn_with import drawn_with
from styleblend.pipeline import Pipeline
from styleblend.settings import MethodSettings, RunSettings, SamplingSettings, validated, with_sampling
from styleblend.adapters.mixes import with_stages
from styleblend.adapters.style import Style, load_named, load_style
from styleblend.training.checkpoints import read, step_of

CHUNK = "styleblend_grid"
LARGEST = 512  # pixels of a picture in the sheet
MARGIN = 8


NO_AXIS = Axis("", ("",))


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet."""

    prompt: Prompt
    sampling: SamplingSettings
    settings: MethodSettings
    seed: int
    checkpoint: str = ""  # step of the UNet LoRA's training; none: the adapters as they are
    mix: str = ""  # in place of the style

    def source(self) -> str:
        """What it is drawn in: a mix, the style at a checkpoint, or "" for the style as it is."""
        return self.mix or self.checkpoint

    def drawn_with(self) -> str:
        """Equal for pictures that can be drawn together."""
        return self.source() + self.sampling.model_dump_json(exclude={"seed"}) + self.settings.model_dump_json()


def axes_and_prompts(axes: Sequence[Axis], prompts: Optional[str],
                     folder: Path) -> Tuple[List[Axis], Dict[str, Prompt]]:
    """The axes, and the prompts by name.

    Several prompts that no axis has become one more axis; default: the style's first prompt.
    """
    names = [axis.name for axis in axes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or prompts and "prompt" in names:
        what = f"two axes are {twice}" if twice else "--prompts and an axis of prompts"
        raise StyleBlendError(f"{what}: one is enough")
    choice = ",".join(axes[names.index("prompt")].values) if "prompt" in names else prompts or "1"
    chosen = {p.name: p for p in chosen_prompts(folder, choice)}
    found = [Axis("prompt", tuple(chosen)) if axis.name == "prompt" else axis for axis in axes]
    return found + ([Axis("prompt", tuple(chosen))] if len(chosen) > 1 and "prompt" not in names else []), chosen


def make_cell(values: Dict[str, str], plan: Plan, prompts: Dict[str, Prompt]) -> Cell:
    """The picture at these values of the axes.

    What no axis says is as a board draws it; a preset replaces all that the style itself says of its method.
    """
    own, settings = plan.own, plan.settings
    changes = {k: values[k] for k in (*OF_BLEND, *OF_DIALS, *OF_ENCODER) if k in values}
    if set(OF_DIALS) & set(changes):
        changes["use_sc_guidance"] = True
    if "preset" in values:
        own = validated(type(own), {**own.model_dump(), "preset": values["preset"], own.section: {}}, "the grid")
        settings = drawn_with(plan.config, own, f"style {plan.name}").settings
    if changes:  # a method without such a setting refuses it
        settings = validated(type(settings), {**settings.model_dump(), **changes}, "the grid")
    sampling = with_sampling(plan.sampling, {k: values[k] for k in OF_SAMPLING if k in values}, "the grid")
    prompt = prompts[values["prompt"]] if "prompt" in values else next(iter(prompts.values()))
    seed = sampling.seed if "seed" in values else prompt.seed_of(own.seeds, sampling.seed)
    return Cell(prompt, sampling, settings, seed, values.get("checkpoint", ""), mix_of(values, plan))


def mix_of(values: Dict[str, str], plan: Plan) -> str:
    """The mix of a picture at these values of the axes; "" where no axis is of one."""
    asked = [name for name in OF_MIX if name in values]
    if not asked:
        return ""
    if asked != list(OF_MIX) or "checkpoint" in values:
        raise StyleBlendError("the axes stages and with go together, and without checkpoint: such as --x "
                              "stages=0-2,3-5 --y with=wax")
    return with_stages(plan.config.adapters, plan.name, values["with"], values["stages"])


def at_checkpoint(style: Style, folder: Path, step: str) -> Style:
    """The style with the UNet LoRA that it had after so many steps of its training; as it is without a step."""
    if not step:
        return style
    known = {str(step_of(path)): path for path in sorted(folder.glob("step-*.safetensors"))}
    if step not in known:
        raise StyleBlendError(f"there is no checkpoint of step {step} in {folder}, but "
                              f"{', '.join(known) or 'none at all'}: train with another "
                              "save_every, and with as many as you want to see for `checkpoints`")
    tensors = read(known[step])[1]
    unet_lora = {name[2:]: value for name, value in tensors.items() if name.startswith("p.")}
    return replace(style, parts={**style.parts, "unet_lora": unet_lora})


def seconds_per_step(pipeline, style: Style, plan: Plan) -> float:
    """How long a step of one picture takes here: the second, since Jittor may have to compile for the first."""
    sampling, times = plan.sampling.model_copy(update={"steps": 2}), []
    result_of(draw_pictures(pipeline, style, ["A cat"], [0], sampling, plan.settings),
              lambda event: times.append(time.perf_counter()))
    return times[-1] - times[-2]


def draw_cells(pipeline, cells: Sequence[Cell], styles: Dict[str, Style], plain: bool) -> Job[List[Image.Image]]:
    """The pictures, in order. `styles`: by `Cell.source`.

    Those that differ only in prompt and seed are drawn together, as many as the settings' batch.
    """
    pictures: Dict[int, Image.Image] = {}
    groups: Dict[str, List[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(cell.drawn_with(), []).append(i)
    for group in groups.values():
        first = cells[group[0]]
        for part in [group[i:i + first.sampling.batch] for i in range(0, len(group), first.sampling.batch)]:
            yield Progress("grid", len(pictures), len(cells), "picture")
            phrases, seeds = [cells[i].prompt.phrase(plain) for i in part], [cells[i].seed for i in part]
            drawn = yield from draw_pictures(pipeline, styles[first.source()], phrases, seeds, first.sampling,
                                             first.settings)
            for i, picture in zip(part, drawn):
                pictures[i] = picture
                yield Drawn(None, picture, None)
    yield Progress("grid", len(cells), len(cells), "picture")
    return [pictures[i] for i in range(len(cells))]


def sheet(blocks: Sequence[Tuple[str, Sequence[Sequence[Image.Image]]]], columns: Sequence[str],
          rows: Sequence[str]) -> Image.Image:
    """Blocks of (title, rows of pictures) one below the other.

    The columns' labels are above each, the rows' labels on its left.
    """
    size = min(LARGEST, max(blocks[0][1][0][0].size))
    font = ImageFont.load_default(max(12, size // 14))
    line, draw = round(font.size * 1.5), ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = round(max(draw.textlength(label, font) for label in rows)) + MARGIN if any(rows) else 0
    bodies = [(title, contact_sheet([[("", picture) for picture in row] for row in pictures], size, MARGIN, 0))
              for title, pictures in blocks]
    height = sum(body.height + line * (2 if title else 1) for title, body in bodies)
    whole = Image.new("RGB", (left + bodies[0][1].width, height), "white")
    draw, top = ImageDraw.Draw(whole), 0
    for title, body in bodies:
        if title:
            draw.text((MARGIN, top + line // 6), shortened(title, whole.width - MARGIN, draw, font), "black", font)
            top += line
        for i, label in enumerate(columns):
            draw.text((left + MARGIN + i * (size + MARGIN), top + line // 6), shortened(label, size, draw, font),
                      "black", font)
        for i, label in enumerate(rows):
            draw.text((MARGIN, top + line + MARGIN + i * (size + MARGIN) + size // 2), label, "black", font,
                      anchor="lm")
        whole.paste(body, (left, top + line))
        top += line + body.height
    return whole


@dataclass(frozen=True)
class GridRequest:
    """The sheet: the first of `axes` to the right, the second downwards, a block for each combination of the others.

    `prompts` as in `BoardRequest`. More pictures than `limit` are refused. The sheet is written to `output` (.png, .jpg
    or .webp), which `overwrite` replaces; None: to a free name.
    """

    settings: RunSettings
    style: str
    axes: Sequence[Axis]
    prompts: Optional[str] = None
    output: Optional[Path] = None
    limit: int = 100
    overwrite: bool = False

    def file(self) -> Path:
        """Where the sheet is written. StyleBlendError where that is not possible."""
        output = free_path(Path("grid.png")) if self.output is None else Path(self.output)
        refuse_no_file(output)
        format_of(output)
        refuse_unwritable_file(output)
        refuse_taken(output, self.overwrite)
        return output


def draw_grid(request: GridRequest) -> Job[Path]:
    """Draw the sheet; returns its file.

    Too many pictures are refused, with the time that they would take, before the first one is drawn.
    """
    settings, name, output = request.settings, check_name(request.style), request.file()
    axes, chosen = axes_and_prompts(request.axes, request.prompts, data_of(settings.data, name))
    named = ",".join(next((axis.values for axis in request.axes if axis.name == "prompt"), ()))
    for sentence in not_listed(settings, [name], named or request.prompts):
        yield Log(sentence)
    plan, folder = plan_for(settings, ready_style(settings, name)), adapters_of(settings.adapters, name)
    cells = [make_cell(values, plan, chosen) for values in combinations(axes)]
    base = base_for_drawing(settings)
    whole, pipeline = load_style(folder, name, base), Pipeline(base)
    refuse_reserved(pipeline, whole, [prompt.text for prompt in chosen.values()])
    styles = {cell.source(): load_named(settings.adapters, cell.mix, base) if cell.mix
              else at_checkpoint(whole, folder / "training" / "lora", cell.checkpoint)
              for cell in {cell.source(): cell for cell in cells}.values()}
    size = size_of(axes, cells, seconds_per_step(pipeline, whole, plan))
    if len(cells) > request.limit:
        raise StyleBlendError(f"this grid is {size}: leave values out, or say --limit {len(cells)}")
    record = dict(style=name, style_hash=style_hash(whole), base=base.fingerprint(), dtype=base.dtype,
                  axes={a.name: a.values for a in axes},
                  prompts=list(chosen), sampling=plan.sampling.model_dump(),
                  **{plan.own.section: plan.settings.model_dump()},
                  seeds=plan.own.seeds, version=__version__)
    texts = {CHUNK: json.dumps(record, ensure_ascii=False)}
    refuse_unsaved(output, blank_sheet(axes, plan.sampling).size, texts)
    yield Log(size)
    pictures = yield from draw_cells(pipeline, cells, styles, settings.plain_prompt)
    output = save_picture(output, laid_out(axes, pictures), texts, request.overwrite)
    yield Written(output)
    return output


def combinations(axes: Sequence[Axis]) -> List[Dict[str, str]]:
    """The values of each picture, in the order in which they lie on the sheet: row by row, block by block."""
    x, y, *others = *axes, *[NO_AXIS][:2 - len(axes)]
    return [dict(zip((a.name for a in others), rest), **{y.name: row, x.name: column})
            for rest in itertools.product(*(a.values for a in others)) for row in y.values for column in x.values]


def size_of(axes: Sequence[Axis], cells: Sequence[Cell], seconds: float) -> str:
    """How many pictures the sheet has, and how long they take at so many seconds a step, in words."""
    minutes = seconds * sum(cell.sampling.steps for cell in cells) / 60
    duration = f"{minutes:.0f} minutes" if minutes >= 2 else f"{max(1, minutes * 60):.0f} seconds"
    return f"{' x '.join(str(len(a.values)) for a in axes)} = {len(cells)} pictures, about {duration}"


def blank_sheet(axes: Sequence[Axis], sampling: SamplingSettings) -> Image.Image:
    """The sheet without its pictures: it has the size of the one with them."""
    blank = Image.new("RGB", (sampling.width, sampling.height))
    return laid_out(axes, [blank] * len(combinations(axes)))


def laid_out(axes: Sequence[Axis], pictures: Sequence[Image.Image]) -> Image.Image:
    """The sheet of the pictures of `combinations(axes)`."""
    x, y, *others = *axes, *[NO_AXIS][:2 - len(axes)]
    rows = [pictures[i:i + len(x.values)] for i in range(0, len(pictures), len(x.values))]
    titles = [", ".join(a.label(value) for a, value in zip(others, rest))
              for rest in itertools.product(*(a.values for a in others))]
    blocks = [(title, rows[i * len(y.values):(i + 1) * len(y.values)]) for i, title in enumerate(titles)]
    return sheet(blocks, [x.label(value) for value in x.values],
                 [y.label(value) if y.name else "" for value in y.values])
