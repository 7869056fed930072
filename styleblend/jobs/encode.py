"""Keep the style of pictures as a style of its own: the tokens that Style Encoder writes of them."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from styleblend.adapters.encoder_files import ready_encoder
from styleblend.adapters.parts import part_named
from styleblend.adapters.style import Style, save_part
from styleblend.adapters.style_files import part_file, settings_in
from styleblend.base.base import load_base
from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import find_base
from styleblend.files.claims import in_turn
from styleblend.files.names import check_name
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.shipped import holds_files
from styleblend.files.tensor_files import read_metadata
from styleblend.files.whole_files import write_bytes
from styleblend.jobs.choices import ready_pictures
from styleblend.jobs.events import Job, Progress
from styleblend.methods.style_encoder import PART, encoded_style
from styleblend.settings import EncodedPicture, RunSettings, StyleEncoderSettings, StyleSettings
from styleblend.settings.style_encoder import said_of

METHOD = "style_encoder"


@dataclass(frozen=True)
class EncodeRequest:
    """What becomes the style `name`: `pictures` with their weights, read by `encoder` (None: the config's).

    It is written into `output` (None: the config's adapters). `overwrite` replaces tokens that are there, and
    none of what else the style says of itself.
    """

    settings: RunSettings
    pictures: Sequence[EncodedPicture]
    name: str
    encoder: Optional[str] = None
    output: Optional[Path] = None
    overwrite: bool = False

    def folder(self) -> Path:
        """The folder of the style."""
        return Path(self.output or self.settings.adapters) / self.name


def encode(request: EncodeRequest) -> Job[Path]:
    """Write the style; returns its folder."""
    folder, settings = request.folder(), request.settings
    refuse_other_style(request)
    asked = StyleEncoderSettings(references=list(request.pictures), encoder=request.encoder)
    ready_pictures(settings, *asked.pictures())
    ready_encoder(request.encoder or settings.encoder)
    refuse_unwritable(folder.parent)
    yield Progress(f"encoding {request.name}", 0, 2, "part", "base")
    base = load_base(find_base(settings.base, settings.base_id), settings.dtype)  # its numbers are not used
    yield Progress(f"encoding {request.name}", 1, 2, "part", "pictures")
    style = encoded_style(base, asked, settings)
    with in_turn(folder.parent):
        refuse_other_style(request)
        own = settings_from_now_on(request, style).model_copy(update={"source": said_of(asked.counted())})
        write_bytes(folder / "style.json", own.model_dump_json(exclude_defaults=True, indent=2).encode("utf-8"))
        # last, since a style with this file counts as whole
        save_part(folder, request.name, PART, {part_named(PART).token: style.parts[PART]},
                  {"base": base.fingerprint(), "style": request.name, "encoder": style.files["encoder"]})
    yield Progress(f"encoding {request.name}", 2, 2, "part")
    return folder


def settings_from_now_on(request: EncodeRequest, style: Style) -> StyleSettings:
    """What the style says of itself: what stands there already, with the template of the encoder where it is another.

    The template of the same encoder may have been changed by hand, and that of another one is not what it learned.
    """
    name, folder = request.name, request.folder()
    before, file = settings_in(folder, name), part_file(folder, name, PART)
    if before.method != METHOD:
        return style.settings
    try:
        if file and read_metadata(file).get("encoder") == style.files["encoder"]:
            return before
    except StyleBlendError:
        pass  # it is torn, and about to be replaced
    kept = {key: value for key, value in before.style_encoder.items() if key != "template"}
    return before.model_copy(update={"style_encoder": {**kept, **style.settings.style_encoder}})


def refuse_other_style(request: EncodeRequest) -> None:
    """StyleBlendError where the name is no style's, or is taken."""
    name, folder = check_name(request.name), request.folder()
    before = settings_in(folder, name)
    if holds_files(folder) and before.method != METHOD:
        raise StyleBlendError(f"{folder} holds a style of {before.method} already: choose another --name")
    if part_file(folder, name, PART) and not request.overwrite:
        raise StyleBlendError(f"{folder} holds a style already: choose another --name, or --overwrite to replace it")
