"""Options that several commands share, and what they make of the settings."""
from __future__ import annotations

import argparse
import os
import shlex
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


def command_to_draw(config: str, style: str) -> str:
    """What draws in a style of a config, as a shell takes it."""
    return f'python -m styleblend draw --config {shlex.quote(config)} --style {shlex.quote(style)} --prompt "A rabbit"'


def add_styles(parser, default: str) -> None:
    parser.add_argument("--styles", metavar="NAMES", help=f"names with commas between them; default: {default}")


def add_max_pixels(parser) -> None:
    parser.add_argument("--max-pixels", type=int, metavar="N",
                        help="style pictures with more are refused; default: the config's (pictures.max_pixels), else "
                             "64 million")


def add_dtype(parser, draws: bool = True) -> None:
    eighth = "int8: for drawing on a CPU, weights take a byte a number, and the rest is as with auto; "
    parser.add_argument("--dtype", choices=["auto", "float32", "float16", "bfloat16", *(["int8"] if draws else [])],
                        help="what frozen weights and activations are kept in: 16 bits take half the memory (the VAE "
                             f"stays float32 beside float16); {eighth if draws else ''}auto: bfloat16 for drawing on a "
                             "CPU with matrix tiles (AMX), which is up to three times as fast there, else, and with "
                             "--cluster, float32; default: the config's (dtype), else auto")


def add_max_memory(parser) -> None:
    parser.add_argument("--max-memory", metavar="SIZE",
                        help="with its unit, such as 8GB, 7.5GiB or 900MB: estimate first what is needed; change what "
                             "a picture or style hardly depends on until it fits, or refuse; default: no limit")


def add_offload(parser) -> None:
    parser.add_argument("--offload", action="store_true",
                        help="on a GPU: keep each network in the host's memory while another one works; slower, and "
                             "less memory of the card; default: the config's (offload), else no")


def add_this_machine(parser) -> None:
    """What a drawing may take of this machine, as a group of its own."""
    group = parser.add_argument_group("this machine")
    add_dtype(group)
    add_max_memory(group)
    add_offload(group)


def add_cluster(parser) -> None:
    """Many machines, as a group of its own."""
    group = parser.add_argument_group("many machines (docs/cluster.md)")
    group.add_argument("--cluster", metavar="WHERE",
                       help="let a Ray cluster work: auto, the one on this machine or else one that is started for "
                            "this run; or HOST:PORT")
    group.add_argument("--cores", type=int, metavar="N",
                       help="of each worker, where the cluster has no GPU; default: 1")
    group.add_argument("--collect", action="store_true",
                       help="send what is made back to here: for machines without common storage")


def cluster_of(args, settings):
    """What spreads the work over the cluster of --cluster; None: nothing does. It starts nothing yet."""
    if args.cluster is None:
        unused = "--collect" if args.collect else "--cores" if args.cores is not None else None
        if unused:
            raise StyleBlendError(f"{unused} has no effect without --cluster: leave it out")
        return None
    if args.cores is not None and args.cores < 1:
        raise StyleBlendError(f"--cores {args.cores}: give at least 1")
    if args.max_memory is not None:
        raise StyleBlendError("--max-memory looks at this machine, not at those of --cluster: leave it out, and change "
                              "the config")
    from styleblend.cluster.ray_workers import RayWorkers
    return RayWorkers(args.cluster, settings, args.cores or 1, args.collect)


def add_output_file(parser, usual: str, what: str) -> None:
    """--output and --overwrite of a command that writes pictures."""
    name, _, ending = usual.rpartition(".")
    parser.add_argument("--output", metavar="FILE",
                        help=f"file of {what}, as its ending says: .png, .jpg or .webp; default: {usual}, or "
                             f"{name}-2.{ending}, ... where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if it is there")


def named_file(text: Optional[str], option: str = "--output") -> Optional[Path]:
    """The file of --output. StyleBlendError for no name, and for one that can only be a folder's."""
    if text and text.endswith(os.sep):
        raise StyleBlendError(f"{option} {text} is a folder: name a file in it, such as {text}picture.png")
    return named_folder(text, option)


def named_folder(text: Optional[str], option: str = "--output") -> Optional[Path]:
    """The folder of --output. StyleBlendError for an empty name."""
    if text is not None and not text.strip():
        raise StyleBlendError(f"{option} is empty: give a name, or leave {option} out")
    return None if text is None else Path(text)


def add_metrics(parser) -> None:
    parser.add_argument("--metrics", metavar="NAMES",
                        help="what else to measure beside the mini judge: names of docs/metrics.md with commas "
                             "between them, or all; default: nothing")
    parser.add_argument("--weights", metavar="FOLDER",
                        help="the networks that these need; default: the config's (metrics.weights), else "
                             "checkpoints/metrics")


# options of control pictures, by the settings that they are
OF_CONTROL = {"kind": "control", "picture": "control_picture", "network": "controlnet", "estimator": "depth_estimator",
              "strength": "control_strength", "start": "control_start", "end": "control_end"}


def add_control(parser) -> None:
    group = parser.add_argument_group("pictures that hold the layout (ControlNet); for several give --control-picture "
                                      "several times, and each other option once for all or once for each")

    def add(option: str, metavar: str, help: str, kind: type = str) -> None:
        group.add_argument(option, action="append", default=[], metavar=metavar, help=help, type=kind)

    add("--control", "KIND", "what is read of --control-picture. canny: its edges; depth: its depth; depth_edges: the "
        "edges of its depth; depth_map, map: it is a map itself; default: canny")
    add("--control-picture", "PICTURE", "the picture")
    add("--controlnet", "FOLDER", "the network; default: the config's for this kind (controlnets)")
    add("--depth-estimator", "FOLDER", "Depth Anything V2 or DPT-hybrid, a folder or a hub id; default: the config's "
        "(depth_estimator)")
    add("--control-strength", "FACTOR", "default: 1", float)
    add("--control-start", "SHARE", "of the steps; default: 0", float)
    add("--control-end", "SHARE", "of the steps; default: 1", float)
    group.add_argument("--guess-mode", action="store_true", help="the networks alone say what is there")


def control_of(args) -> tuple:
    """The control pictures of these options, as settings; none: (). StyleBlendError where options are left over."""
    from styleblend.settings import ControlSettings, validated
    from styleblend.settings.control import BY_ESTIMATOR
    given = {name: getattr(args, option) for name, option in OF_CONTROL.items() if getattr(args, option)}
    count = len(args.control_picture)
    if not count:
        if given or args.guess_mode:
            raise StyleBlendError("a ControlNet reads a picture: name it with --control-picture")
        return ()
    wrong = next((name for name, values in given.items() if len(values) not in (1, count)), None)
    if wrong:
        raise StyleBlendError(f"{len(given[wrong])} --{OF_CONTROL[wrong].replace('_', '-')} with {count} "
                              "--control-picture: give it once for all, or once for each")
    found = []
    for number in range(count):
        said = {name: values[number % len(values)] for name, values in given.items()}
        if count > 1 and len(given.get("estimator", ())) == 1 and said.get("kind") not in BY_ESTIMATOR:
            del said["estimator"]  # it is for the pictures whose depth is seen
        found.append(validated(ControlSettings, {**said, **({"guess": True} if args.guess_mode else {})},
                               "the options"))
    return tuple(found)


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
    if getattr(args, "cluster", None) is not None:  # all of its machines draw in one type
        dtype = {"auto": "float32", "int8": "int8-float32"}.get(settings.dtype, settings.dtype)
        settings = settings.model_copy(update={"dtype": dtype})
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
