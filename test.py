"""Draw every prompt of every trained style: `python test.py --help`."""
import argparse
import sys

from styleblend.machine.environment import missing_package


def main() -> int:
    try:
        from styleblend.cli import parser_for_test, run
        return run(parser_for_test(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)))
    except ModuleNotFoundError as error:
        return missing_package(error)


if __name__ == "__main__":
    sys.exit(main())
