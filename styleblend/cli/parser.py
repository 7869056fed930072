"""All commands, from the files that have them. Nothing heavy is imported before a command runs."""
from __future__ import annotations

import argparse

from styleblend import __version__
from styleblend.cli import (adapters, aligning, comparing, context, drawing, encoder_training, encoding, machine, page,
                            project, scoring, training, transferring)
from styleblend.cli.options import Parser


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="styleblend", description="Learn a style from a few pictures, then draw any prompt in it.",
        epilog="styleblend COMMAND --help shows the options of a command, with an example.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (drawing, aligning, transferring, encoding, context, training, encoder_training, project, adapters,
                 scoring, comparing, page, machine):
        room.add_commands(commands)
    return parser
