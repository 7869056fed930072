"""`inspect`, `load` and `export`: adapter files of this program and of others."""
from __future__ import annotations

from pathlib import Path
from typing import List

from styleblend.cli.options import add_command, add_config, named_folder, settings_of
from styleblend.cli.progress import tell
from styleblend.cli.running import follow

FORMATS = ("diffusers", "kohya", "webui", "single")


def add_commands(commands) -> None:
    inspect = add_command(commands, "inspect", "say what an adapter file is: kind, rank, layers, tokens, width",
                          example="inspect ink_lora.safetensors")
    inspect.add_argument("file", help=".safetensors, .bin or .pt")
    inspect.set_defaults(run=run_inspect)
    add_load_options(add_command(commands, "load", "take adapter files of other programs as a style",
                                 example="load ink_lora.safetensors ink_embedding.pt --name ink --config "
                                         "configs/sd21.yaml"))
    add_export_options(add_command(commands, "export", "write a trained style for other programs",
                                   example="export checkpoints/mini/styles/fxemoji --format kohya --output out"))


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
    parser.add_argument("style", metavar="FOLDER",
                        help="folder of a trained style, such as checkpoints/mini/styles/fxemoji")
    parser.add_argument("--format", choices=FORMATS, default="kohya",
                        help="diffusers; kohya (ComfyUI); webui (A1111's folders); single: all in one file, for this "
                             "program")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names that are there")
    parser.add_argument("--coarse-strength", type=float, default=1.0, metavar="FACTOR",
                        help="factor of the text encoder's LoRA")
    parser.add_argument("--fine-strength", type=float, default=1.0, metavar="FACTOR", help="factor of the UNet's LoRA")
    parser.add_argument("--config", metavar="FILE",
                        help="the config of the base that the style was trained on: kohya's files then name its kind, "
                             "size and prediction type; default: they do not")
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


def run_export(args) -> int:
    from styleblend.adapters.export import export
    base = None
    if args.config:
        from styleblend.files.base_folder import find_base
        settings = settings_of(args)
        base = find_base(settings.base, settings.base_id)
    for path in export(Path(args.style), args.format, named_folder(args.output), args.coarse_strength,
                       args.fine_strength, base, args.overwrite):
        print(path)
    if args.format != "single":
        for sentence in what_is_lost(Path(args.style)):
            tell(sentence)
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
