"""`styleblend --help` is quick, and each command says its defaults and one example, which parses."""
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from styleblend.cli.parser import build_parser
from styleblend.jobs.grid_axes import AXES

ROOT = Path(__file__).parents[2]
COMMANDS = ("draw", "align", "transfer", "board", "context", "train", "captions", "styles", "init", "inspect", "load",
            "export", "eval", "compare", "grid", "tune", "page", "memory", "doctor")


def help_of(*command):
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as end:
        build_parser().parse_args([*command, "--help"])
    assert end.value.code == 0
    return out.getvalue()


def timed(code):
    """What a process prints, and its seconds on a processor, the least of three: those do not count what else runs.

    Python keeps what it compiles of modules, as it does for a user, also where it must not for these tests.
    """
    found, environ = [], {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            before = os.times()
            run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
                                 env={**environ, "PYTHONPYCACHEPREFIX": folder})
            after = os.times()
            found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    print(f"{min(found):.2f} s")
    return run.stdout, min(found)


def test_help_is_quick_and_imports_nothing_heavy():
    code = ("import sys; sys.argv = ['styleblend', '--help']\nfrom styleblend.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(sorted({name.split('.')[0] for name in sys.modules} & "
            "{'jittor', 'numpy', 'PIL', 'pydantic', 'yaml', 'tqdm', 'transformers'}))")
    said, seconds = timed(code)
    assert said.splitlines()[-1] == "[]" and seconds < 0.5


LORA = "checkpoints/mini/styles/fxemoji/fxemoji_unet_lora.safetensors"


def test_what_only_reads_files_starts_no_jittor():
    """`inspect` of a file comes at once, also on a machine on which Jittor does not import."""
    code = ("import sys; sys.modules['jittor'] = sys.modules['jittor_utils'] = None\nfrom styleblend.cli import main\n"
            f"import styleblend.settings\nsys.exit(main(['inspect', '{LORA}']))")
    said, seconds = timed(code)
    assert "128 of the UNet" in said and seconds < 1  # 0.25 on a quiet machine


def test_all_commands_are_listed():
    listed = help_of()
    assert all(re.search(rf"^    {command}\b", listed, re.M) for command in COMMANDS)
    assert "draw (generate)" in listed and "board (test)" in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_its_defaults_and_an_example_that_parses(command):
    text = help_of(command)
    words = " ".join(text.split())
    example = re.search(r"example: python -m styleblend (.*)$", words)[1]
    args = build_parser().parse_args(shlex.split(example))
    assert args.command == command and "(default: None)" not in words and "(default: False)" not in words
    if "--config NAME" in words and command not in ("export", "init", "compare"):
        assert "(default: mini)" in words


@pytest.mark.parametrize("alias, command", [("generate", "draw"), ("test", "board")])
def test_former_names_do_the_same(alias, command):
    parser = build_parser()
    assert parser.parse_args([alias]).run is parser.parse_args([command]).run


def test_the_axes_of_a_grid_are_those_that_there_are():
    words = " ".join(help_of("grid").split())
    assert f"{', '.join(AXES[:-1])} or {AXES[-1]}" in words and "negative_scale" in AXES


def test_the_default_of_style_guidance_is_the_configs():
    words = " ".join(help_of("draw").split())
    assert "default: the style's own, else the config's (style_encoder.style_guidance)" in words


def test_the_board_script_has_the_same_options():
    out = subprocess.run([sys.executable, "test.py", "--help"], cwd=ROOT,
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    for option in re.findall(r"^  (--[a-z-]+)", help_of("board"), re.M):
        assert option in out


def test_no_help_says_that_nothing_is_the_default():
    """Of the scripts, too: all that show defaults do so by the formatter that leaves out what is none."""
    rooms = ("styleblend", "benchmarks", "tools", "scripts")
    scripts = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    users = {path.name for path in scripts if "ArgumentDefaultsHelpFormatter" in path.read_text(encoding="utf-8")}
    assert users == {"options.py"}
