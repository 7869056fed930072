"""Which styles and prompts a job works on: what was named, or all that there are.

Nothing here needs Jittor: the command line asks before it starts it, since at its first start Jittor compiles for
minutes.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

from styleblend.adapters.mixes import is_mix, names_in, resolved
from styleblend.adapters.style_files import find_style, missing_parts, style_names_in
from styleblend.errors import StyleBlendError, did_you_mean, nearest
from styleblend.files.base_folder import check_base
from styleblend.files.captions import (ONE_FOLDER_EACH, StylePicture, pictures_if_any, refuse_nameless, style_names,
                                       style_pictures)
from styleblend.files.names import check_name, entry
from styleblend.files.pictures import check_picture, opened
from styleblend.files.prompts import Prompt, listed, make_prompt, phrase_of, prompt_file, style_prompts
from styleblend.files.scripts import hardly_known
from styleblend.files.shipped import adapters_of, data_of, folders_in, holds_files, style_folders
from styleblend.jobs.aligned_sets import AlignedSet, set_in
from styleblend.metrics import JUDGE_SCORES
from styleblend.metrics.weighted import parse_weights
from styleblend.record import Record, read_record
from styleblend.settings import RunSettings

NOT_TRAINED = "not trained"
Choice = Union[None, str, Sequence[Prompt]]  # of prompts: see chosen_prompts
Chosen = Tuple[List[str], List[str]]  # names of styles, and sentences on those that are left out


def named_styles(names: str) -> List[str]:
    """The names in "00, 01", each once. StyleBlendError when there is none, or one that cannot be a style's."""
    found = [check_name(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise StyleBlendError(f"--styles {names!r} names nothing: give names with commas between them")
    return list(dict.fromkeys(found))


def all_styles(settings: RunSettings) -> List[str]:
    """The names of all styles that have pictures, prompts or adapters, one's own and those that are shipped."""
    return sorted({*style_folders(settings.data), *style_names_in(settings.adapters)})


def known_style(settings: RunSettings, name: str) -> str:
    """The name of a style that has pictures, prompts or adapters. StyleBlendError says which there are."""
    name = check_name(name)
    if not data_of(settings.data, name).is_dir() and not holds_files(adapters_of(settings.adapters, name)):
        raise StyleBlendError(f"there is no style {name} in {settings.data} or {settings.adapters}: "
                              f"{did_you_mean(name, all_styles(settings))}")
    return name


def ready_style(settings: RunSettings, name: str) -> str:
    """The name of a style that can be drawn. StyleBlendError: there is none of this name, or it is not trained."""
    if is_mix(name):
        for one in names_in(name):
            ready_style(settings, one)
        return resolved(settings.adapters, name)
    name = known_style(settings, name)
    if not holds_files(adapters_of(settings.adapters, name)):
        raise StyleBlendError(f"style {name} is not trained, {Path(settings.adapters) / name} has no adapters: "
                              f"python -m styleblend train all --styles {name}")
    find_style(settings.adapters, name)
    return name


def ready_to_draw(settings: RunSettings, *names: str) -> None:
    """StyleBlendError where the base or one of these styles is not there."""
    for name in names:
        ready_style(settings, name)
    check_base(settings.base, settings.base_id)


def ready_pictures(settings: RunSettings, *pictures: str) -> None:
    """StyleBlendError where one of these files is no picture that can be read."""
    for picture in pictures:
        with opened(Path(picture), settings.pictures.max_pixels):
            pass


def drawn_again(prompt: Optional[str], style: Optional[str], again: Optional[Path]) -> Optional[Record]:
    """The record of the picture that is drawn again. StyleBlendError where nothing is to be drawn."""
    record = read_record(again) if again else None
    if style is not None and not style.strip():
        raise StyleBlendError("--style is empty: name a style, or leave --style out for a plain picture")
    if not (prompt or "").strip() and (prompt or record is None):
        raise StyleBlendError("there is nothing to draw: give --style and --prompt, --prompt alone for a plain "
                              "picture, or --from a picture that was drawn here")
    if prompt:
        phrase_of(prompt)
    return record


# ---------------------------------------------------------------- a board

def chosen_styles(settings: RunSettings, names: Optional[str], prompts: Choice = None) -> Chosen:
    """The named styles, which must be whole; or all that are, one's own before the shipped ones.

    `prompts` as in `chosen_prompts`. Without a name a style is left out, with a sentence, where something is missing.
    """
    if names is not None:
        return [ready_style(settings, name) for name in named_styles(names)], []
    lacking, found = {}, []
    for name in all_styles(settings):
        lack = lack_of(settings, name, prompts)
        if lack:
            lacking.setdefault(lack, []).append(name)
        else:
            found.append(name)
    for why, left in lacking.items() if not found else ():
        if why != NOT_TRAINED:
            raise StyleBlendError(f"no style can be drawn as it is; {', '.join(left[:8])}: {why}")
    if not found:
        raise StyleBlendError(f"no style of {settings.data} has adapters in {settings.adapters}: train one with "
                              "python -m styleblend train all")
    own = [name for name in found if is_own(settings, name)]
    if own and len(own) < len(found):
        lacking["they come with the program: name them with --styles"] = [name for name in found if name not in own]
    return own or found, [f"left out: {', '.join(left[:8])}{' ...' if len(left) > 8 else ''} ({why})"
                          for why, left in lacking.items()]


def lack_of(settings: RunSettings, name: str, prompts: Choice) -> Optional[str]:
    """What a style lacks to be drawn on a board, in words; None: nothing."""
    folder = adapters_of(settings.adapters, name)
    if not holds_files(folder):
        return NOT_TRAINED
    missing = missing_parts(folder, name)
    if missing:
        return f"it has no {', '.join(missing).replace('_', ' ')}"
    if not names_prompts(prompts) and not prompt_file(data_of(settings.data, name)).exists():
        return f"{settings.data} has no prompt.json for it"
    return None


def is_own(settings: RunSettings, name: str) -> bool:
    """Whether a style is read from the config's own folder, not from what is shipped."""
    return adapters_of(settings.adapters, name) == Path(settings.adapters) / name


def names_prompts(choice: Choice) -> bool:
    """Whether a choice of prompts names them ("Cat,Dog"), and does not say how many of prompt.json."""
    return choice is not None and not (isinstance(choice, str) and re.fullmatch("[0-9]{1,9}", choice))


def chosen_prompts(folder: Path, choice: Choice) -> List[Prompt]:
    """The prompts of a style: all of its prompt.json, the first N ("3"), or those named ("Cat,Dog").

    Those that are named need not be in it. Prompts themselves are taken as they are.
    """
    if choice is not None and not isinstance(choice, str):
        return list(choice)
    if choice is not None and re.fullmatch("[0-9]{20,}", choice):
        raise StyleBlendError(f"--prompts {choice[:20]}... is more than there can be: give names with commas between "
                              "them, or how many")
    if names_prompts(choice):
        known = {p.name: p for p in style_prompts(folder)} if prompt_file(folder).exists() else {}
        named = [make_prompt(text) for text in listed(choice)]
        if not named:
            raise StyleBlendError(f"--prompts {choice!r} names nothing: give names with commas between them, or how "
                                  "many")
        return [known.get(p.name, p) for p in dict.fromkeys(named)]
    if choice is not None and int(choice) == 0:
        raise StyleBlendError("--prompts 0 draws nothing: give at least 1")
    prompts = style_prompts(folder)
    return prompts[:int(choice)] if choice else prompts


def not_listed(settings: RunSettings, names: Sequence[str], choice: Choice) -> List[str]:
    """A sentence on each prompt that was named and that the prompt.json of a style does not have."""
    strange = {}
    for name in names if isinstance(choice, str) and names_prompts(choice) else ():
        folder = data_of(settings.data, name)
        if prompt_file(folder).exists():
            known = [p.name for p in style_prompts(folder)]
            for prompt in chosen_prompts(folder, choice):
                near = nearest(prompt.name, known)
                if prompt.name not in known:
                    # a longer word holds many short ones
                    near = near if near and abs(len(near) - len(prompt.name)) < 3 else None
                    strange.setdefault((prompt.name, near), []).append(name)
    return [f"{prompt} is not in the prompt.json of {', '.join(styles[:4])}{' ...' if len(styles) > 4 else ''}: it is "
            "drawn all the same" + (f"; did you mean {near}?" if near else "")
            for (prompt, near), styles in strange.items()]


def part_of(places: Sequence, which: str) -> List:
    """Part I of N ("2/3") in one piece, so that a worker changes styles as seldom as it can."""
    try:
        index, count = (int(x) for x in which.split("/"))
    except ValueError:
        raise StyleBlendError(f"--shard {which} is not like 1/3") from None
    if not 1 <= index <= count:
        raise StyleBlendError(f"--shard {which}: the first number goes from 1 to the second")
    return list(places[len(places) * (index - 1) // count:len(places) * index // count])


def ready_for_board(settings: RunSettings, names: Optional[str], prompts: Choice, shard: str) -> None:
    """StyleBlendError where the base, a style or the prompts are not as they should be."""
    part_of((), shard)
    for name in chosen_styles(settings, names, prompts)[0]:
        chosen_prompts(data_of(settings.data, name), prompts)
    check_base(settings.base, settings.base_id)


def ready_for_grid(settings: RunSettings, name: str, prompts: Optional[str]) -> None:
    """StyleBlendError where the base, the style or the prompts are not as they should be."""
    ready_to_draw(settings, name)
    if prompts:
        chosen_prompts(data_of(settings.data, name), prompts)


# ---------------------------------------------------------------- a training

def styles_to_train(settings: RunSettings, names: Optional[str]) -> Chosen:
    """The named styles, or all of the config's own data folder that have pictures; each of these is checked."""
    left, remarks = [], []
    if names is not None:
        found = named_styles(names)
        for name in found:
            if not data_of(settings.data, name).is_dir():
                raise StyleBlendError(f"there is no style {name} in {settings.data}: "
                                      f"{did_you_mean(name, style_folders(settings.data))}")
    else:
        if not Path(settings.data).is_dir():
            raise StyleBlendError(f"the data folder {settings.data} does not exist: {ONE_FOLDER_EACH}; python -m "
                                  "styleblend init makes a folder to work in")
        there = style_names(Path(settings.data))
        found = [name for name in there if pictures_if_any(data_of(settings.data, name))]
        left = [name for name in there if name not in found]
        found = found or left  # what has no pictures is refused below
        left = [name for name in left if name not in found]
    for name in found:
        remarks += check_pictures(name, style_pictures(data_of(settings.data, name)), settings)
    return found, [*([f"left out, since they have no pictures: {', '.join(left)}"] if left else []), *remarks]


def check_pictures(name: str, pictures: Sequence[StylePicture], settings: RunSettings) -> List[str]:
    """Sentences on captions that the base hardly knows.

    StyleBlendError for pictures that cannot be read, or of which nothing says what they show.
    """
    for picture in pictures:
        check_picture(picture.path, settings.sampling.width, settings.sampling.height, settings.pictures.fit,
                      settings.pictures.max_pixels)
    refuse_nameless(pictures, name)
    remark = hardly_known([picture.caption for picture in pictures], "the caption")
    return [f"{name}: {remark}"] if remark else []


def ready_to_train(settings: RunSettings, names: Optional[str]) -> None:
    """StyleBlendError where the base, a style or a picture is not as it should be."""
    styles_to_train(settings, names)
    check_base(settings.base, settings.base_id)


# ---------------------------------------------------------------- scores

def styles_to_score(folder: Path, data: Path, names: Optional[Sequence[str]], notes: List[str]) -> List[str]:
    """The styles that have pictures in `folder` and a folder in `data`; `notes` gets what is on one side only.

    StyleBlendError for a name that is on neither side.
    """
    if not Path(folder).is_dir():
        raise StyleBlendError(f"the folder {folder} does not exist: python -m styleblend board draws one")
    known = style_folders(data) or style_names(data)
    drawn = [name for name in folders_in(Path(folder)) if any(entry(folder, name).glob("*.png"))]
    for name in names or ():
        if name not in known and name not in drawn:
            raise StyleBlendError(f"there is no style {name} in {folder} or {data}: "
                                  f"{did_you_mean(name, sorted({*known, *drawn}))}")
    without = [n for n in names or folders_in(Path(data)) or known if n in known and n not in drawn]
    if without:
        notes.append(f"no pictures of {', '.join(without)} in {folder}")
    strange = [n for n in names or drawn if n not in known]
    if strange:
        notes.append(f"{data} has no style {', '.join(strange)}: left out")
    return [n for n in names or drawn if n in known and n in drawn]


def set_to_score(folder: Path, data: Path, names: Optional[Sequence[str]]) -> Optional[AlignedSet]:
    """The set of `align` in this folder, unless it is a board: folders of styles in `data`."""
    known = style_folders(data)
    board = any(any(entry(folder, name).glob("*.png")) for name in folders_in(Path(folder)) if name in known)
    found = None if board else set_in(folder)
    if found and names is not None:
        raise StyleBlendError(f"{folder} is a set of align, not a board of styles: leave out --styles")
    return found


def ready_to_score(folders: Sequence[Path], data: Path, names: Optional[str]) -> None:
    """StyleBlendError where a folder of pictures or a named style is not there."""
    wanted = named_styles(names) if names is not None else None
    for folder in folders:
        if set_to_score(folder, data, wanted) is None:
            styles_to_score(folder, data, wanted, [])


def ready_scores(scores: Optional[str], metrics: Optional[str], source: str) -> None:
    """StyleBlendError for a score that the judge does not give, where no metric beside it is asked for."""
    for name in parse_weights(scores, source) if scores and not metrics else ():
        if name not in JUDGE_SCORES:
            raise StyleBlendError(f"{source}: there is no score {name!r} of single pictures; "
                                  f"{did_you_mean(name, JUDGE_SCORES)} (other metrics: --metrics)")
