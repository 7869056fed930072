"""The command line: `styleblend --help`. One file a group of commands; parser.py puts them together."""
from __future__ import annotations

from typing import List, Optional


def main(argv: Optional[List[str]] = None) -> int:
    """Run a command; the exit code."""
    from styleblend.cli.parser import build_parser
    from styleblend.cli.running import run
    return run(build_parser(), argv)
