"""The command `styleblend`. It stands outside of the package, so that another package of that name is noticed."""
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    """The command line of the package beside this file; exit code 2 where Python finds another one first."""
    own, found = Path(__file__).resolve().parent / "styleblend", find_spec("styleblend")
    first = Path(found.origin or next(iter(found.submodule_search_locations))).resolve() if found else None
    if first and own not in (first, first.parent):
        print(f"styleblend: another package of this name is found first ({first}): take its folder out of PYTHONPATH",
              file=sys.stderr)
        return 2
    from styleblend.__main__ import start
    return start()
