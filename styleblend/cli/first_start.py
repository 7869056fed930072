"""Jittor compiles itself before a command needs it: `python -m styleblend.cli.first_start`.

The Makefile runs it while pip installs the other packages, so it imports those that Jittor needs and no more.
"""
import argparse
import sys

from styleblend.cli.running import run


def compile_jittor(args: argparse.Namespace) -> int:
    """Import Jittor, which compiles itself where it has not yet; the exit code."""
    from styleblend.machine import runtime  # noqa: F401
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.set_defaults(run=compile_jittor)
    sys.exit(run(parser))
