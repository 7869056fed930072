"""Options that several commands share, and what they make of the settings."""
from __future__ import annotations

import argparse

from styleblend.errors import StyleBlendError

MINI = "configs/mini.yaml"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but those that the help of an option tells in words, and those that are nothing."""

    def _get_help_string(self, action):
        nothing = action.default in (None, False, []) or action.default is argparse.SUPPRESS
        told = "default:" in (action.help or "")
        return action.help if told or nothing else super()._get_help_string(action)


def add_command(commands, name: str, help: str, example: str, aliases=()) -> argparse.ArgumentParser:
    """A command with one example below its options."""
    return commands.add_parser(name, aliases=aliases, help=help, description=help[0].upper() + help[1:] + ".",
                               epilog=f"example:\n  python -m styleblend {example}", formatter_class=HelpFormatter)


def add_config(parser) -> None:
    parser.add_argument("--config", metavar="FILE", default=MINI,
                        help="settings: configs/mini.yaml (laptop) or configs/sd21.yaml (Stable Diffusion 2.1)")


def add_styles(parser, default: str) -> None:
    parser.add_argument("--styles", metavar="NAMES", help=f"names with commas between them; default: {default}")


def add_max_pixels(parser) -> None:
    parser.add_argument("--max-pixels", type=int, metavar="N",
                        help="style pictures with more are refused; default: the config's (pictures.max_pixels), else "
                             "64 million")


def add_dtype(parser) -> None:
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"],
                        help="what frozen weights and activations are kept in: 16 bits take half the memory (the VAE "
                             "stays float32 beside float16); default: the config's (dtype), else float32")


def add_max_memory(parser) -> None:
    parser.add_argument("--max-memory", metavar="SIZE",
                        help="such as 8GB: estimate first what is needed; change what a picture or style hardly "
                             "depends on until it fits, or refuse; default: no limit")


def add_offload(parser) -> None:
    parser.add_argument("--offload", action="store_true",
                        help="on a GPU: keep each network in the host's memory while another one works; slower, and "
                             "less memory of the card; default: the config's (offload), else no")


def add_metrics(parser) -> None:
    parser.add_argument("--metrics", metavar="NAMES",
                        help="what else to measure beside the mini judge: names of docs/metrics.md with commas "
                             "between them, or all; default: nothing")
    parser.add_argument("--weights", metavar="FOLDER",
                        help="the networks that these need; default: the config's (metrics.weights), else "
                             "checkpoints/metrics")


def add_control(parser) -> None:
    group = parser.add_argument_group("a picture that holds the layout (ControlNet)")
    group.add_argument("--control", metavar="KIND", help="canny: the edges of --control-picture; map: the picture "
                       "itself is the map")
    group.add_argument("--control-picture", metavar="PICTURE", help="the picture")
    group.add_argument("--controlnet", metavar="FOLDER", help="the network; default: the config's for this kind "
                       "(controlnets)")
    group.add_argument("--control-strength", type=float, metavar="FACTOR", help="default: 1")
    group.add_argument("--control-start", type=float, metavar="SHARE", help="of the steps; default: 0")
    group.add_argument("--control-end", type=float, metavar="SHARE", help="of the steps; default: 1")
    group.add_argument("--guess-mode", action="store_true", help="the network alone says what is there")


def control_of(args) -> tuple:
    """The control picture of these options, as settings; none: ()."""
    from styleblend.settings import ControlSettings, validated
    names = {"control": "kind", "control_picture": "picture", "controlnet": "network", "control_strength": "strength",
             "control_start": "start", "control_end": "end"}
    said = {name: getattr(args, option) for option, name in names.items() if getattr(args, option) is not None}
    said.update({"guess": True} if args.guess_mode else {})
    if not said:
        return ()
    if "picture" not in said:
        raise StyleBlendError("a ControlNet reads a picture: name it with --control-picture")
    return (validated(ControlSettings, said, "the options"),)


def settings_of(args):
    """The settings of the config, changed by those of the shared options that the command has."""
    from styleblend.settings import read_settings, validated
    settings = read_settings(args.config)
    given = {name: getattr(args, name, None) for name in ("fit", "max_pixels")}
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        pictures = validated(type(settings.pictures), {**settings.pictures.model_dump(), **given}, option)
        settings = settings.model_copy(update={"pictures": pictures})
    if getattr(args, "dtype", None):
        settings = settings.model_copy(update={"dtype": args.dtype})
    if getattr(args, "offload", False):
        settings = settings.model_copy(update={"offload": True})
    return settings
