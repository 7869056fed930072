"""Options that several commands share, and what they make of the settings."""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn, Optional

from styleblend.cli.progress import tell
from styleblend.errors import StyleBlendError, did_you_mean, nearest

MINI = "mini"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one sentence, with the command, option or word that is near.

    What argparse prints itself, the usage of a command with thirty options, hides the sentence below it.
    """

    def parse_args(self, args=None, namespace=None):
        found, strange = self.parse_known_args(args, namespace)
        if strange:
            command = commands_of(self).get(getattr(found, "command", None), self)
            known = [option for action in command._actions for option in action.option_strings]
            near = nearest(strange[0].partition("=")[0], known) if strange[0].startswith("-") else None
            command.error(f"unknown option {strange[0]}" if strange[0].startswith("-") else
                          f"{strange[0]!r} belongs to no option", f"did you mean {near}? " if near else "")
        return found

    def _check_value(self, action, value) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"unknown {value!r}: {did_you_mean(value, action.choices)}")

    def error(self, message: str, near: str = "") -> NoReturn:
        self.exit(2, f"styleblend: {message}; {near}{self.prog} --help shows what there is\n")


def commands_of(parser: argparse.ArgumentParser) -> dict:
    """The parsers of a parser's commands, by name."""
    return next((action.choices for action in parser._actions
                 if isinstance(action, argparse._SubParsersAction)), {})


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
    parser.add_argument("--config", metavar="NAME", default=MINI,
                        help="settings: mini (laptop), sd21 (Stable Diffusion 2.1), one of your own in configs/, or a "
                             "file")


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
                        help="with its unit, such as 8GB, 7.5GiB or 900MB: estimate first what is needed; change what "
                             "a picture or style hardly depends on until it fits, or refuse; default: no limit")


def add_offload(parser) -> None:
    parser.add_argument("--offload", action="store_true",
                        help="on a GPU: keep each network in the host's memory while another one works; slower, and "
                             "less memory of the card; default: the config's (offload), else no")


def add_output_file(parser, usual: str, what: str) -> None:
    """--output and --overwrite of a command that writes pictures."""
    name, _, ending = usual.rpartition(".")
    parser.add_argument("--output", metavar="FILE",
                        help=f"file of {what}, as its ending says: .png, .jpg or .webp; default: {usual}, or "
                             f"{name}-2.{ending}, ... where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if it is there")


def named_file(text: Optional[str]) -> Optional[Path]:
    """The file of --output. StyleBlendError for no name, and for one that can only be a folder's."""
    if text and text.endswith(os.sep):
        raise StyleBlendError(f"--output {text} is a folder: name a file in it, such as {text}picture.png")
    return named_folder(text)


def named_folder(text: Optional[str]) -> Optional[Path]:
    """The folder of --output. StyleBlendError for an empty name."""
    if text is not None and not text.strip():
        raise StyleBlendError("--output is empty: give a name, or leave --output out")
    return None if text is None else Path(text)


def add_metrics(parser) -> None:
    parser.add_argument("--metrics", metavar="NAMES",
                        help="what else to measure beside the mini judge: names of docs/metrics.md with commas "
                             "between them, or all; default: nothing")
    parser.add_argument("--weights", metavar="FOLDER",
                        help="the networks that these need; default: the config's (metrics.weights), else "
                             "checkpoints/metrics")


def add_control(parser) -> None:
    group = parser.add_argument_group("a picture that holds the layout (ControlNet)")
    group.add_argument("--control", metavar="KIND", help="what is read of --control-picture. canny: its edges; "
                       "depth: its depth; depth_edges: the edges of its depth; depth_map, map: it is a map itself; "
                       "default: canny")
    group.add_argument("--control-picture", metavar="PICTURE", help="the picture")
    group.add_argument("--controlnet", metavar="FOLDER", help="the network; default: the config's for this kind "
                       "(controlnets)")
    group.add_argument("--depth-estimator", metavar="FOLDER", help="Depth Anything V2 or DPT-hybrid, a folder or a hub "
                       "id; default: the config's (depth_estimator)")
    group.add_argument("--control-strength", type=float, metavar="FACTOR", help="default: 1")
    group.add_argument("--control-start", type=float, metavar="SHARE", help="of the steps; default: 0")
    group.add_argument("--control-end", type=float, metavar="SHARE", help="of the steps; default: 1")
    group.add_argument("--guess-mode", action="store_true", help="the network alone says what is there")


def control_of(args) -> tuple:
    """The control picture of these options, as settings; none: ()."""
    from styleblend.settings import ControlSettings, validated
    names = {"control": "kind", "control_picture": "picture", "controlnet": "network", "depth_estimator": "estimator",
             "control_strength": "strength",
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
    announce_config(args.config)
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


def announce_config(text: str) -> None:
    """Say which file a config is where that is not what its name leads to expect.

    One that is not here comes with the program; one that is here may say something else than the program's own.
    """
    from styleblend.files.shipped import CONFIGS, find_config, places
    found, given = find_config(text), Path(text)
    own = next(iter(places(Path(CONFIGS) / found.name)[1:]), None)
    if given.suffix and found == own:
        tell(f"{text} is not in this folder: the one that comes with the program is taken")
    elif own and not given.suffix and found != own and own.read_bytes() != found.read_bytes():
        tell(f"the settings are those of {found} in this folder, which differ from the program's own {text}")
