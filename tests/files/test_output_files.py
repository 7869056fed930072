"""Where nothing can be written, and what would be replaced: found before the work, by its real cause."""
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from styleblend.errors import StyleBlendError
from styleblend.files.output_files import free_path, refuse_taken, refuse_unwritable, refuse_unwritable_file
from styleblend.files.whole_files import write_bytes

ROOT = Path(__file__).parents[2]
LONG = "a" * 256

# what is there, the file that is asked for, what the sentence says
WRONG = {
    "a folder": (lambda f: (f / "x.png").mkdir(), "x.png", "is a folder: name a file in it, such as"),
    "a link to a folder": (lambda f: (f / "x.png").symlink_to(f), "x.png", "is a folder"),
    "below a file": (lambda f: (f / "x").touch(), "x/y.png", "Not a directory"),
    "far below a file": (lambda f: (f / "x").touch(), "x/y/z/a.png", "Not a directory"),
    "a long name": (lambda f: None, f"{LONG}.png", "File name too long): choose a shorter name"),
    "a long name in a new folder": (lambda f: None, f"new/{LONG}.png", "File name too long"),
    "a long folder": (lambda f: None, f"new/{LONG}/a.png", "File name too long"),
    "a pipe": (lambda f: os.mkfifo(f / "x.png"), "x.png", "is a device and no file"),
    "a link to itself": (lambda f: (f / "x").symlink_to("x"), "x/a.png", "symbolic links"),
}


def there(folder):
    return sorted((str(p.relative_to(folder)), stat.S_IFMT(p.lstat().st_mode)) for p in folder.rglob("*"))


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_cannot_be_written(tmp_path, case):
    make, name, words = WRONG[case]
    make(tmp_path)
    before = there(tmp_path)
    with pytest.raises(StyleBlendError, match=words.replace("(", r"\(").replace(")", r"\)")):
        refuse_unwritable_file(tmp_path / name)
    assert there(tmp_path) == before


@pytest.mark.parametrize("name", ["a.png", "new/folder/a.png", "a" * 251 + ".png", "\u4e2d\u6587 a.png"])
def test_what_can_be_written_is_and_nothing_is_left_of_the_question(tmp_path, name):
    refuse_unwritable_file(tmp_path / name)
    refuse_unwritable((tmp_path / name).parent)
    assert os.listdir(tmp_path) == []
    write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x" and not list(tmp_path.rglob(".*"))


AS_NOBODY = """
import os, sys
from pathlib import Path
from styleblend.errors import StyleBlendError
from styleblend.files.output_files import refuse_unwritable_file
os.setgid(65534)
os.setuid(65534)
for name in sys.argv[1:]:
    try:
        refuse_unwritable_file(Path(name))
    except StyleBlendError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a process gives root away")
def test_a_folder_of_somebody_else(tmp_path):
    """One that can be read, one that cannot even be entered."""
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent not in (Path("/tmp"), Path("/")):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    for name, mode in (("read", 0o555), ("closed", 0o700)):
        (tmp_path / name).mkdir(mode)
    run = subprocess.run([sys.executable, "-c", AS_NOBODY, *(str(tmp_path / n / "a.png") for n in ("read", "closed"))],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.stderr == "" and run.stdout.count("(Permission denied): choose a folder that you may write in") == 2


@pytest.mark.skipif(not os.access("/proc/self/status", os.R_OK), reason="there is no /proc")
def test_a_file_system_that_takes_no_files():
    with pytest.raises(StyleBlendError, match="could not be written"):
        refuse_unwritable(Path("/proc/self"))


def test_a_taken_name(tmp_path):
    path = tmp_path / "a.png"
    refuse_taken(path, overwrite=False)
    path.symlink_to("nowhere")  # a link that leads nowhere is somebody's, too
    with pytest.raises(StyleBlendError, match="a.png is there already: choose another --output, or --overwrite"):
        refuse_taken(path, overwrite=False)
    refuse_taken(path, overwrite=True)


def test_free_names(tmp_path):
    found = []
    for _ in range(4):
        found.append(free_path(tmp_path / "picture.png").name)
        (tmp_path / found[-1]).touch()
    assert found == ["picture.png", "picture-2.png", "picture-3.png", "picture-4.png"]
    assert free_path(tmp_path / "report").name == "report"


def test_a_file_is_not_replaced_by_one_that_comes_later(tmp_path):
    """Also where two processes looked before either wrote."""
    write_bytes(tmp_path / "a", b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "a", b"second", replace=False)
    assert (tmp_path / "a").read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_nor_on_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_links(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_a_file_is_not_replaced_by_one_that_comes_later(tmp_path)
