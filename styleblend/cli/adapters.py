"""`inspect`, `load` and `export`: adapter files of this program and of others."""
from __future__ import annotations

import difflib
from pathlib import Path
from typing import List, Optional

from styleblend.cli.options import MINI, add_command, add_config, named_folder, settings_of
from styleblend.cli.progress import tell
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError

FORMATS = ("diffusers", "kohya", "webui", "ldm", "single")
EXPORTED = "export"  # where `export` writes a folder of each style


def add_commands(commands) -> None:
    inspect = add_command(commands, "inspect", "say what an adapter file is: kind, rank, layers, tokens, width",
                          example="inspect ink_lora.safetensors")
    inspect.add_argument("file", help="a .safetensors, .bin or .pt file, whatever its name ends in")
    inspect.set_defaults(run=run_inspect)
    add_load_options(add_command(commands, "load", "take adapter files of other programs as a style",
                                 example="load ink_lora.safetensors ink_embedding.pt --name ink --config "
                                         "configs/sd21.yaml"))
    add_export_options(add_command(commands, "export", "write a trained style for other programs",
                                   example="export fxemoji --format kohya --output out"))


def add_load_options(parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE",
                        help="LoRAs and embeddings of diffusers, PEFT, kohya, A1111 or the published StyleBlend; or a "
                             "style in one file")
    parser.add_argument("--name", required=True, help="name of the style")
    add_config(parser)
    parser.add_argument("--output", metavar="FOLDER", help="folder of adapters; default: the config's (adapters)")
    parser.add_argument("--overwrite", action="store_true", help="replace parts that are there already")
    parser.add_argument("--attention-only", action="store_true",
                        help="of a LoRA that also changes other layers (as kohya's scripts train it) take those in "
                             "attention; default: such a file is refused")
    parser.set_defaults(run=run_load)


def add_export_options(parser) -> None:
    parser.add_argument("style", metavar="NAME",
                        help="a style by its name, or its folder, such as checkpoints/mini/styles/fxemoji")
    parser.add_argument("--format", choices=FORMATS, default="kohya",
                        help="diffusers; kohya (ComfyUI); webui (A1111's folders); ldm: the original names of the "
                             "UNet's and the text encoder's layers; single: all in one file, for this program")
    parser.add_argument("--output", metavar="FOLDER", help=f"folder for the files; default: {EXPORTED}/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names that are there")
    parser.add_argument("--coarse-strength", type=float, default=1.0, metavar="FACTOR",
                        help="factor of the text encoder's LoRA")
    parser.add_argument("--fine-strength", type=float, default=1.0, metavar="FACTOR", help="factor of the UNet's LoRA")
    parser.add_argument("--config", metavar="FILE",
                        help="the config of the base that the style was trained on, in whose folder of adapters a "
                             "NAME is: kohya's files then name the base's kind, size and prediction type; default: "
                             f"they do not, and a NAME is one of {MINI}")
    parser.set_defaults(run=run_export)


def run_inspect(args) -> int:
    from styleblend.adapters.inspect import inspect
    for name, text in inspect(Path(args.file)).items():
        print(f"{name:28} {text}")
    return 0


def run_load(args) -> int:
    from styleblend.jobs.load import LoadRequest, load_style_files
    request = LoadRequest(settings_of(args), [Path(file) for file in args.files], args.name, named_folder(args.output),
                          args.overwrite, args.attention_only)
    for line in follow(load_style_files(request)):
        print(line)
    advice = f'; draw with it: python -m styleblend draw --config {args.config} --style {args.name} --prompt "A rabbit"'
    print(f"{args.name} is in {request.folder() / args.name}" + ("" if args.output else advice))
    return 0


def style_folder(style: str, config: Optional[str]) -> Path:
    """The folder of a style that is named by it, or by the style's name in the config's folder of adapters."""
    is_name = Path(style).name == style
    if Path(style).is_dir() and not (is_name and config):
        return Path(style)
    from styleblend.files.names import entry
    from styleblend.settings import read_settings
    adapters = Path(read_settings(config or MINI).adapters)
    folder = entry(adapters, style)
    if is_name and folder.is_dir():
        return folder
    if Path(style).is_dir():
        return Path(style)
    there = sorted(path.name for path in adapters.iterdir() if path.is_dir()) if adapters.is_dir() else []
    near = difflib.get_close_matches(style, there, 3, 0.4) or there[:6]
    raise StyleBlendError(f"there is no style {style!r} in {adapters}"
                          + (f": it has {', '.join(near)}{', ...' * (len(near) < len(there))}" if near else "")
                          + "; name one, another --config, or its folder")


def run_export(args) -> int:
    folder = style_folder(args.style, args.config)
    from styleblend.adapters.export import export
    base = None
    if args.config:
        from styleblend.files.base_folder import find_base
        settings = settings_of(args)
        base = find_base(settings.base, settings.base_id)
    output = named_folder(args.output) or Path(EXPORTED, folder.resolve().name)
    for path in export(folder, args.format, output, args.coarse_strength, args.fine_strength, base, args.overwrite):
        print(path)
    for option, strength in (("coarse", args.coarse_strength), ("fine", args.fine_strength)):
        if strength == 0:
            tell(f"with --{option}-strength 0 the {'text encoder' if option == 'coarse' else 'UNet'}'s LoRA changes "
                 "nothing")
    if args.format != "single":
        for sentence in what_is_lost(folder):
            tell(sentence)
    if args.format == "ldm":
        tell("ComfyUI reads these names of the UNet and not those of the text encoder: for both there, --format kohya")
    return 0


def what_is_lost(folder: Path) -> List[str]:
    """What the style in `folder` does not do in other programs."""
    from styleblend.adapters.export import LOSS, own_blend, own_settings
    blend, guidance = own_blend(folder), own_settings(folder).guidance
    said = [LOSS]
    if blend.fine_scale != 1:
        said.append(f"the UNet's LoRA is multiplied by the style's own fine_scale, {blend.fine_scale:g}")
    if blend.negative_scale != 1:
        said.append(f"elsewhere the negative prompt feels the whole LoRA, here {blend.negative_scale:g} of it "
                    "(negative_scale): should the style come out weaker there, export with a higher --fine-strength")
    if guidance is not None:
        said.append(f"draw it with a guidance (CFG scale) of {guidance:g}")
    return said
