"""`python -m styleblend ...`"""
import os
import sys
from pathlib import Path

from styleblend.machine.environment import missing_package


def name_others() -> None:
    """Say where another package of this name is on PYTHONPATH: in other folders Python would take that one."""
    own = Path(__file__).resolve().parent
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        for path in [Path(entry) / "styleblend" / "__init__.py", Path(entry) / "styleblend.py"] if entry else ():
            if path.is_file() and path.resolve().parent != own:
                print(f"styleblend: PYTHONPATH has another package of this name ({path}); this is {own}",
                      file=sys.stderr)


def start() -> int:
    """The command line, or one sentence when its packages are not installed."""
    name_others()
    try:
        from styleblend.cli import main
        return main()
    except ModuleNotFoundError as error:
        return missing_package(error)


if __name__ == "__main__":
    sys.exit(start())
