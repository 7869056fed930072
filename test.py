"""Draw every prompt of every trained style: `python test.py --help`."""
import argparse
import sys

from styleblend.cli import parser_for_test, run

if __name__ == "__main__":
    sys.exit(run(parser_for_test(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter))))
