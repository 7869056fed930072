"""`init`, which makes a folder to work in."""
from __future__ import annotations

from pathlib import Path

from styleblend.cli.options import MINI, add_command

NEXT = """
What next:
  {cd}put three to ten pictures of a style into {images}, each named after what it shows
  python -m styleblend train all {config}--styles mystyle
  python -m styleblend board {config}--styles mystyle --prompts Rabbit,Castle"""
OF_MINI = "  python -m styleblend draw --style fxemoji --prompt \"A rabbit\"     # `styleblend styles` lists them"


def add_commands(commands) -> None:
    init = add_command(commands, "init", "make a project folder: a config, and folders for pictures and adapters",
                       example="init myproject")
    init.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="folder to make; default: this one")
    init.add_argument("--config", metavar="NAME", default=MINI,
                      help="which config: mini (laptop) or sd21 (Stable Diffusion 2.1)")
    init.set_defaults(run=run_init)


def run_init(args) -> int:
    from styleblend.files.base_folder import KNOWN_COPIES
    from styleblend.files.project import make_project
    from styleblend.settings import read_settings
    config, *folders = make_project(Path(args.folder), args.config)
    for path in (config, *folders):
        print(path)
    mini = args.config == MINI
    settings = read_settings(config)
    cd = "" if Path(args.folder).resolve() == Path.cwd() else f"cd {args.folder}\n  "
    option = "" if mini else f"--config {args.config} "
    print(NEXT.format(cd=cd, images=Path(settings.data) / "mystyle" / "images", config=option))
    print(OF_MINI if mini else f"The base: hf download {KNOWN_COPIES[0]} --local-dir {settings.base}")
    return 0
