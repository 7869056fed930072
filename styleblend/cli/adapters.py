"""`inspect`, `load` and `export`: adapter files of this program and of others."""
from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from styleblend.cli.options import MINI, add_command, add_config, command_to_draw, named_folder, settings_of
from styleblend.cli.progress import tell
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError, nearest

FORMATS = ("diffusers", "kohya", "webui", "ldm", "single")
EXPORTED = "export"  # where `export` writes a folder of each style


def add_commands(commands) -> None:
    inspect = add_command(commands, "inspect", "say what an adapter file is: kind, rank, layers, tokens, width",
                          example="inspect ink_lora.safetensors")
    inspect.add_argument("file", help="a .safetensors, .bin or .pt file, whatever its name ends in")
    inspect.set_defaults(run=run_inspect)
    add_load_options(add_command(commands, "load", "take adapter files of other programs as a style",
                                 example="load ink_lora.safetensors ink_embedding.pt --name ink --config sd21"))
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
    parser.add_argument("style", metavar="STYLE",
                        help="name of a trained style, such as fxemoji, or its folder")
    parser.add_argument("--format", choices=FORMATS, default="kohya",
                        help="diffusers; kohya (ComfyUI); webui (A1111's folders); ldm: the original names of the "
                             "UNet's and the text encoder's layers; single: all in one file, for this program")
    parser.add_argument("--output", metavar="FOLDER", help=f"folder for the files; default: {EXPORTED}/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names that are there")
    parser.add_argument("--coarse-strength", type=float, default=1.0, metavar="FACTOR",
                        help="factor of the text encoder's LoRA")
    parser.add_argument("--fine-strength", type=float, default=1.0, metavar="FACTOR", help="factor of the UNet's LoRA")
    parser.add_argument("--config", metavar="NAME",
                        help="the config of the base that the style was trained on, in whose folder of adapters a "
                             "STYLE is: kohya's files then name the base's kind, size and prediction type; default: "
                             f"they do not, and a STYLE is one of {MINI}")
    parser.set_defaults(run=run_export)


def run_inspect(args) -> int:
    from styleblend.adapters.inspect import inspect
    for name, text in inspect(Path(args.file)).items():
        print(f"{name:28} {text}")
    return 0


def run_load(args) -> int:
    from styleblend.files.base_folder import check_base
    from styleblend.files.names import check_name
    settings, name = settings_of(args), check_name(args.name)
    for file in map(Path, args.files):
        refuse_absent(file)
    check_base(settings.base, settings.base_id)
    from styleblend.adapters.style_files import style_names_in
    from styleblend.files.shipped import adapters_of
    from styleblend.jobs.load import LoadRequest, load_style_files
    request = LoadRequest(settings, [Path(file) for file in args.files], name, named_folder(args.output),
                          args.overwrite, args.attention_only)
    output = request.folder()
    shipped = adapters_of(output, name) if name in style_names_in(output) else output / name
    for line in follow(load_style_files(request)):
        print(line)
    if shipped != output / name:
        tell(f"a style {name} comes with the program, too ({shipped}): from now on yours is drawn in this folder")
    advice = f"; draw with it: {command_to_draw(args.config, name)}"
    print(f"{name} is in {output / name}" + ("" if args.output else advice))
    return 0


def run_export(args) -> int:
    from styleblend.adapters.export import export, is_embedding
    base, style = None, style_folder(args.style, args.config)
    if args.config:
        from styleblend.files.base_folder import find_base
        settings = settings_of(args)
        base = find_base(settings.base, settings.base_id)
    output = named_folder(args.output) or Path(EXPORTED, style.resolve().name)
    for path in export(style, args.format, output, args.coarse_strength, args.fine_strength, base, args.overwrite):
        print(path)
    for option, strength in (("coarse", args.coarse_strength), ("fine", args.fine_strength)):
        if strength == 0:
            tell(f"with --{option}-strength 0 the {'text encoder' if option == 'coarse' else 'UNet'}'s LoRA changes "
                 "nothing")
    if args.format != "single":
        for sentence in what_is_lost(style, args.format):
            tell(sentence)
    if args.format == "ldm" and not is_embedding(style):
        tell("ComfyUI reads these names of the UNet and not those of the text encoder: for both there, --format kohya")
    return 0


def refuse_absent(file: Path) -> None:
    """StyleBlendError for a file that is not there, with the one beside it that is named nearly so."""
    if not file.exists():
        beside = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        near = nearest(file.name, beside)
        raise StyleBlendError(f"{file} does not exist" + (f"; did you mean {file.parent / near}?" if near else ""))


def style_folder(text: str, config: Optional[str]) -> Path:
    """The folder of a style that is named by its folder, or by its name among those of a config.

    Of a folder and a style with one name it is the folder, unless the config is named, too.
    """
    from styleblend.adapters.style_files import find_style, style_names_in
    from styleblend.files.shipped import own_or_shipped
    from styleblend.settings import read_settings
    path, is_name = own_or_shipped(text), Path(text).name == text
    if not is_name or path.is_dir() and not config:
        return path
    adapters = read_settings(config or MINI).adapters
    return path if path.is_dir() and text not in style_names_in(adapters) else find_style(adapters, text)


def what_is_lost(folder: Path, kind: str) -> List[str]:
    """What the style in `folder` does not do in the programs that read this format, and how it is used there."""
    from styleblend.adapters.export import LOSS, has_stages, is_embedding, own_blend, own_settings, stages_in
    from styleblend.settings.style_encoder import PHRASE, TEMPLATE, TOKEN
    if has_stages(folder):
        return said_of_stages(folder.resolve().name, stages_in(folder))
    if is_embedding(folder):
        name = folder.resolve().name
        template = getattr(own_settings(folder), "style_encoder", {}).get("template", TEMPLATE)
        program, word = ("diffusers", f"<{name.lower()}>") if kind == "diffusers" else ("A1111", name)
        phrase = template.replace(PHRASE, "a painting of a fox").replace(TOKEN, word)
        return [f"in {program} write {phrase}", "the guidance of the style stays behind"]
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


def said_of_stages(name: str, stages: int) -> List[str]:
    """How the embeddings of a style of stages are used in other programs."""
    from styleblend.adapters.export import prompt_editing
    return [f"each embedding is for a stage, {name}-T{stages - 1} for the first steps and {name}-T0 for the last ones: "
            f"in A1111 write a painting of a fox, in the style of {prompt_editing(name, stages)}",
            "the guidance of style and context stays behind"]
