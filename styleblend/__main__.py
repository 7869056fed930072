"""`python -m styleblend ...`"""
import sys

from styleblend.machine.environment import missing_package


def start() -> int:
    """The command line, or one sentence when its packages are not installed."""
    try:
        from styleblend.cli import main
        return main()
    except ModuleNotFoundError as error:
        return missing_package(error)


sys.exit(start())
