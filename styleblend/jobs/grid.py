"""A sheet over two or three settings: one picture for each combination, with the values along its sides."""
from __future__ import annotations

import difflib
import itertools
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from styleblend import __version__
from styleblend.base.base import base_for_drawing
from styleblend.jobs.board import chosen_prompts, style_settings
from styleblend.errors import StyleBlendError
from styleblend.files.names import entry
from styleblend.files.pictures import contact_sheet, save_png, shortened
from styleblend.pipeline import StyleBlendPipeline
from styleblend.files.prompts import Prompt
from styleblend.record import style_hash
from styleblend.settings import PRESETS, BlendSettings, RunSettings, SamplingSettings, StyleSettings, blend_for, sampling_for, validated
from styleblend.adapters.style import Style, load_style
from styleblend.training.checkpoints import read, step_of

OF_BLEND, OF_SAMPLING = ("scale", "fine_scale", "negative_scale", "c2f_ratio", "f2c_ratio"), ("seed", "steps", "guidance")
AXES = ("preset", *OF_BLEND, *OF_SAMPLING, "checkpoint", "prompt")
CHUNK = "styleblend_grid"
LARGEST = 512  # pixels of a picture in the sheet
MARGIN = 8


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, as they were typed."""

    name: str
    values: Tuple[str, ...]

    def label(self, value: str) -> str:
        return value if self.name in ("preset", "prompt") else f"{self.name} {value}"


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet."""

    prompt: Prompt
    sampling: SamplingSettings
    blend: BlendSettings
    seed: int
    checkpoint: str = ""  # step of the UNet LoRA's training; none: the adapters as they are

    def drawn_with(self) -> str:
        """Equal for pictures that can be drawn together."""
        return self.checkpoint + self.sampling.model_dump_json(exclude={"seed"}) + self.blend.model_dump_json()


def parse_axis(text: str, option: str) -> Axis:
    """"scale=0.1,0.3" -> Axis. StyleBlendError for an unknown name, with the nearest known one."""
    name, _, values = text.partition("=")
    name, found = name.strip(), tuple(dict.fromkeys(v.strip() for v in values.split(",") if v.strip()))
    if name not in AXES:
        near = difflib.get_close_matches(name, AXES, 1, 0.4)
        raise StyleBlendError(f"{option}: unknown axis {name!r}" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(AXES)}"))
    if not found:
        raise StyleBlendError(f"{option} {name} has no values: write {option} {name}=A,B")
    wrong = [v for v in found if name == "preset" and v not in PRESETS]
    if wrong:
        raise StyleBlendError(f"{option}: unknown preset {wrong[0]!r}; known: {', '.join(PRESETS)}")
    return Axis(name, found)


def axes_and_prompts(axes: Sequence[Axis], prompts: Optional[str], folder: Path) -> Tuple[List[Axis], Dict[str, Prompt]]:
    """The axes, and the prompts by name. Several prompts that no axis has become one more axis; default: the style's first prompt."""
    names = [axis.name for axis in axes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or prompts and "prompt" in names:
        raise StyleBlendError(f"two axes are {twice}: one is enough" if twice else "--prompts and an axis of prompts: one is enough")
    chosen = {p.name: p for p in chosen_prompts(folder, ",".join(axes[names.index("prompt")].values) if "prompt" in names else prompts or "1")}
    found = [Axis("prompt", tuple(chosen)) if axis.name == "prompt" else axis for axis in axes]
    return found + ([Axis("prompt", tuple(chosen))] if len(chosen) > 1 and "prompt" not in names else []), chosen


def make_cell(values: Dict[str, str], settings: RunSettings, own: StyleSettings, prompts: Dict[str, Prompt], source: str) -> Cell:
    """The picture at these values of the axes. What no axis says is as test.py draws it; a preset replaces all that the style itself says of the blend."""
    if "preset" in values:
        own = own.model_copy(update={"preset": values["preset"], "blend": {}})
    blend = blend_for(settings.blend, own, source)
    blend = validated(BlendSettings, {**blend.model_dump(), **{k: values[k] for k in OF_BLEND if k in values}}, "the grid")
    sampling = validated(SamplingSettings, {**sampling_for(settings.sampling, own).model_dump(), **{k: values[k] for k in OF_SAMPLING if k in values}}, "the grid")
    prompt = prompts[values["prompt"]] if "prompt" in values else next(iter(prompts.values()))
    return Cell(prompt, sampling, blend, sampling.seed if "seed" in values else int(own.seeds.get(prompt.name, sampling.seed)), values.get("checkpoint", ""))


def at_checkpoint(style: Style, folder: Path, step: str) -> Style:
    """The style with the UNet LoRA that it had after so many steps of its training; as it is without a step."""
    if not step:
        return style
    known = {str(step_of(path)): path for path in sorted(folder.glob("step-*.safetensors"))}
    if step not in known:
        raise StyleBlendError(f"there is no checkpoint of step {step} in {folder}, but {', '.join(known) or 'none at all'}: train with another "
                              "save_every, and with as many as you want to see for `checkpoints`")
    tensors = read(known[step])[1]
    return replace(style, unet_lora={name[2:]: value for name, value in tensors.items() if name.startswith("p.")})


def seconds_per_step(pipeline: StyleBlendPipeline, settings: RunSettings) -> float:
    """How long a step of one picture takes here: the second, since Jittor may have to compile for the first."""
    ends = []
    pipeline.generate(["A cat"], [0], settings.sampling.model_copy(update={"steps": 2}), settings.blend, callback=lambda *_: ends.append(time.perf_counter()))
    return ends[1] - ends[0]


def draw_cells(pipeline: StyleBlendPipeline, cells: Sequence[Cell], styles: Dict[str, Style], plain: bool) -> List[Image.Image]:
    """The pictures, in order; those that differ only in prompt and seed are drawn together, as many as the settings' batch. `styles`: by checkpoint."""
    pictures: Dict[int, Image.Image] = {}
    groups: Dict[str, List[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(cell.drawn_with(), []).append(i)
    with tqdm(total=len(cells), desc="grid", unit="picture", dynamic_ncols=True, file=sys.stderr) as bar:
        for group in groups.values():
            first = cells[group[0]]
            if pipeline.style is not styles[first.checkpoint]:
                pipeline.set_style(styles[first.checkpoint])
            for part in [group[i:i + first.sampling.batch] for i in range(0, len(group), first.sampling.batch)]:
                drawn = pipeline.generate([cells[i].prompt.phrase(plain) for i in part], [cells[i].seed for i in part], first.sampling, first.blend)
                pictures.update((i, Image.fromarray(pixels)) for i, pixels in zip(part, drawn))
                bar.update(len(part))
    return [pictures[i] for i in range(len(cells))]


def sheet(blocks: Sequence[Tuple[str, Sequence[Sequence[Image.Image]]]], columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """Blocks of (title, rows of pictures) one below the other, the columns' labels above each and the rows' labels on its left."""
    size = min(LARGEST, max(blocks[0][1][0][0].size))
    font = ImageFont.load_default(max(12, size // 14))
    line, draw = round(font.size * 1.5), ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = round(max(draw.textlength(label, font) for label in rows)) + MARGIN if any(rows) else 0
    bodies = [(title, contact_sheet([[("", picture) for picture in row] for row in pictures], size, MARGIN, 0)) for title, pictures in blocks]
    height = sum(body.height + line * (2 if title else 1) for title, body in bodies)
    whole = Image.new("RGB", (left + bodies[0][1].width, height), "white")
    draw, top = ImageDraw.Draw(whole), 0
    for title, body in bodies:
        if title:
            draw.text((MARGIN, top + line // 6), shortened(title, whole.width - MARGIN, draw, font), "black", font)
            top += line
        for i, label in enumerate(columns):
            draw.text((left + MARGIN + i * (size + MARGIN), top + line // 6), shortened(label, size, draw, font), "black", font)
        for i, label in enumerate(rows):
            draw.text((MARGIN, top + line + MARGIN + i * (size + MARGIN) + size // 2), label, "black", font, anchor="lm")
        whole.paste(body, (left, top + line))
        top += line + body.height
    return whole


def draw_grid(settings: RunSettings, style: str, axes: Sequence[Axis], prompts: Optional[str], output: Path, limit: int) -> int:
    """Draw the sheet: the first axis to the right, the second downwards, a block for each combination of the others; returns how many pictures.

    More pictures than `limit` are refused, with the time that they would take, before the first one is drawn.
    """
    axes, chosen = axes_and_prompts(axes, prompts, entry(settings.data, style))
    x, y, others = axes[0], axes[1] if len(axes) > 1 else Axis("", ("",)), axes[2:]
    combinations = [dict(zip((a.name for a in others), rest), **{y.name: row, x.name: column})
                    for rest in itertools.product(*(a.values for a in others)) for row in y.values for column in x.values]
    base = base_for_drawing(settings)
    pipeline = StyleBlendPipeline(base, load_style(Path(settings.adapters) / style, style, base))
    pipeline.tokenizer.refuse_reserved([p.text for p in chosen.values()])
    whole = pipeline.style
    own = style_settings(settings, whole)
    cells = [make_cell(values, settings, own, chosen, f"style {style}") for values in combinations]
    training = Path(settings.adapters) / style / "training" / "lora"
    styles = {step: at_checkpoint(whole, training, step) for step in dict.fromkeys(cell.checkpoint for cell in cells)}
    minutes = seconds_per_step(pipeline, settings) * sum(cell.sampling.steps for cell in cells) / 60
    duration = f"{minutes:.0f} minutes" if minutes >= 2 else f"{max(1, minutes * 60):.0f} seconds"
    size = f"{' x '.join(str(len(a.values)) for a in axes)} = {len(cells)} pictures, about {duration}"
    if len(cells) > limit:
        raise StyleBlendError(f"this grid is {size}: leave values out, or say --limit {len(cells)}")
    print(f"styleblend: {size}", file=sys.stderr)
    pictures = draw_cells(pipeline, cells, styles, settings.plain_prompt)
    rows = [pictures[i:i + len(x.values)] for i in range(0, len(pictures), len(x.values))]
    titles = [", ".join(a.label(value) for a, value in zip(others, rest)) for rest in itertools.product(*(a.values for a in others))]
    blocks = [(title, rows[i * len(y.values):(i + 1) * len(y.values)]) for i, title in enumerate(titles)]
    record = dict(style=style, style_hash=style_hash(whole), base=base.fingerprint(), axes={a.name: a.values for a in axes},
                  prompts=list(chosen), sampling=sampling_for(settings.sampling, own).model_dump(), blend=blend_for(settings.blend, own, f"style {style}").model_dump(),
                  seeds=own.seeds, version=__version__)
    image = sheet(blocks, [x.label(value) for value in x.values], [y.label(value) if y.name else "" for value in y.values])
    save_png(output, image, {CHUNK: json.dumps(record, ensure_ascii=False)})
    return len(cells)
