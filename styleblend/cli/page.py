"""`page`: a web page that draws, trains and compares, on this machine."""
from __future__ import annotations

import sys

from styleblend.cli.options import add_command, add_config, settings_of
from styleblend.cli.progress import tell
from styleblend.errors import StyleBlendError

PORT = 7860
INSTALL = 'pip install "styleblend-jittor[page]"'


def add_commands(commands) -> None:
    parser = add_command(commands, "page", "a web page that draws, trains, compares, and remembers all pictures",
                         example="page --config mini --port 7860")
    add_config(parser)
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1",
                        help="whom it listens to: 0.0.0.0 is all of the network, and wants a --password")
    parser.add_argument("--port", type=int, metavar="N", default=PORT, help="number of its port")
    parser.add_argument("--password", metavar="TEXT", help="what a browser must say, under any name; - reads it from "
                        "the terminal, where no list of processes shows it; default: none, for this machine alone")
    parser.set_defaults(run=run_page, watched=False)  # no Jittor is in this process


def run_page(args) -> int:
    settings = settings_of(args)
    password = asked_password() if args.password == "-" else args.password
    refuse_unfit(args.host, args.port, password)
    refuse_missing()
    from styleblend.ui.page import serve
    tell(f"the page is at http://{'127.0.0.1' if args.host == '0.0.0.0' else args.host}:{args.port} (Ctrl-C ends it)")
    serve(settings, args.config, args.host, args.port, password)
    return 0


def asked_password() -> str:
    from getpass import getpass
    return getpass("password of the page: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def refuse_unfit(host: str, port: int, password) -> None:
    """StyleBlendError for an address that others reach without a password, and for what is no port or is taken."""
    import socket
    from styleblend.ui.guard import is_local
    if password is not None and len(password) < 8:
        raise StyleBlendError("--password is shorter than 8 characters: choose a longer one")
    if not is_local(host) and not password:
        raise StyleBlendError(f"--host {host} can be reached by other machines, which could draw and delete here: give "
                              "a --password, too")
    if not 1 <= port <= 65535:
        raise StyleBlendError(f"--port {port} is none: give a number from 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StyleBlendError(f"--host {host} --port {port}: {error.strerror}: choose another --port") from None


def refuse_missing() -> None:
    """StyleBlendError where the page's extra is not installed."""
    from importlib.util import find_spec
    if sys.version_info < (3, 10):
        raise StyleBlendError("the page wants Python 3.10 or newer: Gradio 6 does; all other commands work with this "
                              "one")
    missing = [name for name in ("gradio", "uvicorn", "fastapi") if find_spec(name) is None]
    if missing:
        raise StyleBlendError(f"the page needs {', '.join(missing)}: {INSTALL}")
