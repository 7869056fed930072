"""`encode`: the style of one picture or several, kept as a style. Nothing is trained."""
from __future__ import annotations

from styleblend.cli.options import add_command, add_config, command_to_draw, named_folder, settings_of
from styleblend.cli.reference_pictures import references
from styleblend.cli.running import follow


def add_commands(commands) -> None:
    parser = add_command(commands, "encode", "keep the style of a picture, or of several, as a style of its own",
                         example="encode painting.png sketch.png:0.3 --name ink")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE[:WEIGHT]",
                        help="whose style is kept; several are averaged with their weights: a.png:0.3")
    parser.add_argument("--name", required=True, help="name of the style")
    add_config(parser)
    parser.add_argument("--encoder", metavar="FOLDER", help="what reads the pictures: a folder, or a published "
                        "checkpoint; default: the config's (encoder)")
    parser.add_argument("--output", metavar="FOLDER", help="folder of adapters; default: the config's (adapters)")
    parser.add_argument("--overwrite", action="store_true", help="replace the style if it is there")
    parser.set_defaults(run=run_encode)


def run_encode(args) -> int:
    from styleblend.adapters.encoder_files import ready_encoder
    from styleblend.files.base_folder import check_base
    from styleblend.files.names import check_name
    from styleblend.jobs.choices import ready_pictures
    from styleblend.settings import StyleEncoderSettings, validated
    settings, name = settings_of(args), check_name(args.name)
    said = {"references": references(args.pictures, option="")}
    asked = validated(StyleEncoderSettings, said, "the pictures")
    ready_pictures(settings, *asked.pictures())
    ready_encoder(args.encoder or settings.encoder)
    check_base(settings.base, settings.base_id)
    from styleblend.jobs.encode import EncodeRequest, encode
    output = named_folder(args.output)
    folder = follow(encode(EncodeRequest(settings, asked.references, name, args.encoder, output, args.overwrite)))
    advice = f"; draw with it: {command_to_draw(args.config, name)}"
    print(f"{name} is in {folder}" + ("" if output else advice))
    return 0
