"""Draw every prompt of every trained style: `python test.py --help`."""
import sys

from styleblend.machine.environment import missing_package


def main() -> int:
    try:
        from styleblend.cli.drawing import add_board_options
        from styleblend.cli.options import HelpFormatter, Parser
        from styleblend.cli.running import run
        parser = Parser(description=__doc__, formatter_class=HelpFormatter)
        add_board_options(parser)
        return run(parser)
    except ModuleNotFoundError as error:
        return missing_package(error)


if __name__ == "__main__":
    sys.exit(main())
