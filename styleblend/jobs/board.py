"""Draw a whole board: every prompt of every style to `<output>/<style>/<Prompt>.png`, contact sheets and one web page."""
from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from jinja2 import Environment, PackageLoader
from PIL import Image
from tqdm import tqdm

from styleblend.base.base import Base, base_for_drawing
from styleblend.files.captions import style_names, style_pictures
from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import claim, claim_files, remove_unfinished, write_bytes
from styleblend.files.names import check_name, entry
from styleblend.files.pictures import contact_sheet, is_whole, load_picture, save_png, whole_picture
from styleblend.pipeline import StyleBlendPipeline
from styleblend.files.prompts import Prompt, make_prompt, style_prompts
from styleblend.record import Record, changes, read_record, style_hash
from styleblend.settings import (
    BlendSettings, RunSettings, SamplingSettings, StyleBlendStyle, StyleSettings, blend_for, sampling_for)
from styleblend.adapters.style import Style, adapter_hashes, load_style, missing_parts, read_part, settings_in

SIDE_BY_SIDE = "or give each process other --styles, or parts of one division such as --shard 1/2 and --shard 2/2"


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    style: str
    prompt: Prompt
    path: Path


def chosen_prompts(folder: Path, choice: Optional[str]) -> List[Prompt]:
    """The prompts of a style: all of its prompt.json, the first N ("3"), or those named ("Cat,Dog"), which need not be in it."""
    if choice and not re.fullmatch("[0-9]{1,9}", choice):
        known = {p.name: p for p in style_prompts(folder)} if (folder / "prompt.json").exists() else {}
        named = [make_prompt(text) for text in choice.split(",") if text.strip()]
        if not named:
            raise StyleBlendError(f"--prompts {choice!r} names nothing: give names with commas between them, or how many")
        return [known.get(p.name, p) for p in dict.fromkeys(named)]
    if choice and int(choice) == 0:
        raise StyleBlendError("--prompts 0 draws nothing: give at least 1")
    prompts = style_prompts(folder)
    return prompts[:int(choice)] if choice else prompts


def chosen_styles(settings: RunSettings, names: Optional[str]) -> List[str]:
    """The named styles, which must be whole; or all styles of the data folder that have all adapters."""
    if names:
        found = [check_name(n.strip()) for n in names.split(",") if n.strip()]
        if not found:
            raise StyleBlendError(f"--styles {names!r} names nothing: give names with commas between them")
        for name in found:
            if not entry(settings.data, name).is_dir():
                raise StyleBlendError(f"there is no style {name} in {settings.data}; there are: {', '.join(style_names(Path(settings.data))[:40])}")
        return found
    found = [n for n in style_names(Path(settings.data)) if not missing_parts(Path(settings.adapters) / n, n)]
    if not found:
        raise StyleBlendError(f"no style of {settings.data} has adapters in {settings.adapters}: train one with "
                              "scripts/train_coarse_style.sh and scripts/train_fine_style.sh")
    return found


def shard(jobs: Sequence[Job], which: str) -> List[Job]:
    """Part I of N ("2/3") in one piece, so that a worker changes styles as seldom as it can."""
    try:
        index, count = (int(x) for x in which.split("/"))
    except ValueError:
        raise StyleBlendError(f"--shard {which} is not like 1/3") from None
    if not 1 <= index <= count:
        raise StyleBlendError(f"--shard {which}: the first number goes from 1 to the second")
    return list(jobs[len(jobs) * (index - 1) // count:len(jobs) * index // count])


def saved_size(picture: Image.Image, longer: Optional[int]) -> Image.Image:
    """The picture with its longer side at `longer` pixels; None: as drawn."""
    if not longer or max(picture.size) == longer:
        return picture
    factor = longer / max(picture.size)
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.BICUBIC)


def style_settings(settings: RunSettings, pipeline_style) -> StyleSettings:
    """`style.json` where there is one, else what the config says of this style."""
    own = pipeline_style.settings
    if own != StyleBlendStyle(parts=own.parts):
        return own
    return settings.styles.get(pipeline_style.name, StyleBlendStyle())


@dataclass(frozen=True)
class Plan:
    """How the pictures of one style are drawn now."""

    settings: RunSettings
    name: str
    own: StyleSettings
    sampling: SamplingSettings
    blend: BlendSettings
    adapters: Dict[str, str]

    def record(self, prompt: Prompt, learned: str = "", base: str = "", decoder: str = "") -> Record:
        """What a picture says of itself; `learned`, `base` and `decoder`: hashes that are known only where they are loaded."""
        seed = self.own.seeds.get(prompt.name, self.sampling.seed)
        return Record(prompt.phrase(self.settings.plain_prompt), seed, self.name, learned, base, self.sampling, self.blend, dtype=self.settings.dtype,
                      preset=self.own.preset, adapters=self.adapters, decoder=decoder)


def plan(settings: RunSettings, name: str) -> Plan:
    """The plan of a style, from its small files alone."""
    folder = Path(settings.adapters) / name
    own = style_settings(settings, Style(name, settings=settings_in(folder, name)))
    return Plan(settings, name, own, sampling_for(settings.sampling, own), blend_for(settings.blend, own, f"style {name}"), adapter_hashes(folder, name))


def warn_of_old(kept: Sequence[Job], plans: Dict[str, Plan]) -> None:
    """One line on pictures that are kept, although they would come out otherwise now: after another training, or with other settings."""
    old = {}
    for job in kept:
        try:
            different = changes(read_record(job.path), plans[job.style].record(job.prompt))
        except StyleBlendError:
            continue  # drawn by something else: nothing is known of it
        if different:
            old[f"{job.style}/{job.path.name}"] = different
    if old:
        what = ", ".join(sorted(set().union(*old.values())))
        named = ", ".join(list(old)[:3]) + (f" and {len(old) - 3} more" if len(old) > 3 else "")
        warnings.warn(f"kept, although drawn with other {what} than now: {named}; --overwrite draws again what is there")


def draw_board(settings: RunSettings, styles: Optional[str] = None, prompts: Optional[str] = None, which: str = "1/1",
               overwrite: bool = False, base: Optional[Base] = None) -> List[Path]:
    """Draw what is missing (`overwrite`: everything) of this shard; returns the files that were drawn.

    Raises Busy, before it removes or draws anything, when another process draws some of the same pictures now.
    """
    settings = settings.model_copy(update={"dtype": base.dtype}) if base else settings
    output = Path(settings.output)
    names = chosen_styles(settings, styles)
    jobs = [Job(n, p, output / n / f"{p.name}.png") for n in names for p in chosen_prompts(entry(settings.data, n), prompts)]
    mine = shard(jobs, which)
    with claim_files(output, ".board", [f"{j.style}/{j.path.name}" for j in mine], SIDE_BY_SIDE):
        remove_unfinished(output, *(output / n for n in dict.fromkeys(j.style for j in mine)))
        drawn = draw_missing(settings, mine, overwrite, base)
        with claim(output, ".index", wait=True):  # what the last of several workers writes shows the pictures of all
            for name in dict.fromkeys(j.style for j in mine):
                write_sheet(settings, name, [j for j in jobs if j.style == name])
            write_page(output)
    return drawn


def draw_missing(settings: RunSettings, mine: Sequence[Job], overwrite: bool, base: Optional[Base]) -> List[Path]:
    """The pictures of `draw_board`.

    A batch is drawn whole if one of its pictures is missing: the last bits of a picture depend on its batch, and a run that was
    stopped and started again gives the same files as an unbroken one.
    """
    plans = {name: plan(settings, name) for name in dict.fromkeys(j.style for j in mine)}
    todo = [j for j in mine if overwrite or not is_whole(j.path)]
    warn_of_old([j for j in mine if j not in set(todo)], plans)
    drawn = []
    if todo:
        base = base or base_for_drawing(settings)
        pipeline = StyleBlendPipeline(base)
        pipeline.tokenizer.refuse_reserved([j.prompt.text for j in todo])  # before the first one is drawn
        for name in plans:
            for part in missing_parts(Path(settings.adapters) / name, name):
                read_part(Path(settings.adapters) / name, name, part, base)  # says which training is missing
        for job in mine if overwrite else []:  # all at once: a run that is stopped goes on without --overwrite, and old and new are never mixed
            job.path.unlink(missing_ok=True)
        with tqdm(total=len(mine), initial=len(mine) - len(todo), desc="pictures", unit="picture", dynamic_ncols=True, file=sys.stderr) as bar:
            for name in dict.fromkeys(j.style for j in todo):
                pipeline.set_style(load_style(Path(settings.adapters) / name, name, base))
                hashes = style_hash(pipeline.style), base.fingerprint(), base.decoder_fingerprint()
                of_style, size = [j for j in mine if j.style == name], settings.sampling.batch
                for part in [of_style[i:i + size] for i in range(0, len(of_style), size)]:
                    missing = set(part) & set(todo)
                    if not missing:
                        continue
                    bar.set_postfix_str(f"{name} {part[0].prompt.name}", refresh=False)
                    records = [plans[name].record(j.prompt, *hashes) for j in part]
                    pictures = pipeline.generate([r.prompt for r in records], [r.seed for r in records], plans[name].sampling, plans[name].blend)
                    for job, record, pixels in zip(part, records, pictures):
                        if job not in missing:
                            continue
                        picture = saved_size(Image.fromarray(pixels), settings.sampling.saved_size)
                        save_png(job.path, picture, record.chunks())
                        drawn.append(job.path)
                        bar.update()
    return drawn


def write_sheet(settings: RunSettings, name: str, jobs: Sequence[Job]) -> None:
    """`<output>/<style>.png`: the style's own pictures on top, below them every picture that is drawn."""
    columns = 6
    top = [(p.caption, load_picture(p.path, settings.pictures.max_pixels)) for p in style_pictures(entry(settings.data, name))[:columns]]
    cells = [(j.prompt.name, picture) for j in jobs for picture in [whole_picture(j.path)] if picture]
    rows = [top] + [cells[i:i + columns] for i in range(0, len(cells), columns)]
    save_png(Path(settings.output) / f"{name}.png", contact_sheet(rows))


def write_page(output: Path) -> None:
    """`index.html` with everything that lies in the output folder."""
    styles: Dict[str, list] = {}
    for folder in sorted(p for p in Path(output).iterdir() if p.is_dir()):
        pictures = sorted(folder.glob("*.png"))
        if pictures:
            styles[folder.name] = [(p.stem, f"{folder.name}/{p.name}") for p in pictures]
    page = Environment(loader=PackageLoader("styleblend.jobs", "pages"), autoescape=True).get_template("index.html").render(styles=styles)
    write_bytes(Path(output) / "index.html", page.encode("utf-8"))
