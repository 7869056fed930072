"""Whatever a file is, reading it ends in one sentence and exit code 2, at once, in little memory.

Nothing in it runs and nothing is written.
"""
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import malformed
import numpy as np
import pytest
from test_hostile_pickles import HOSTILE
from test_pickles import mapping, old_file, old_storage, tensor

from styleblend.adapters.foreign_files import MAX_BYTES
from styleblend.cli import main

ROOT = Path(__file__).parents[2]
UNET = ROOT / "checkpoints" / "mini" / "base" / "unet" / "config.json"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
KINDS = {"safetensors": (malformed.broken_safetensors, ".safetensors", 200),
         "pickles": (malformed.broken_pickles, ".bin", 200),
         "hostile pickles": (lambda: [(key, data, True) for key, (data, _) in HOSTILE.items()]
                             + [(key, data, key != "a frame that hides a call")
                                for key, data in malformed.MORE_HOSTILE.items()], ".bin", 60),
         "configs": (lambda: malformed.broken_configs(UNET.read_bytes()), ".json", 100)}


@pytest.fixture(autouse=True)
def children_may_be_stopped():
    """Jittor, once it is imported, ends this process when a child process is stopped or killed."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_ends_in_one_sentence_within_five_seconds_and_a_gigabyte(kind, tmp_path):
    cases, ending, at_least = KINDS[kind]
    written = malformed.write(cases(), tmp_path / "files", ending)
    assert len(written) >= at_least
    (tmp_path / "here").mkdir()
    run = subprocess.run([sys.executable, str(ROOT / "tests" / "caged_reader.py")], input="\n".join(written),
                         capture_output=True, text=True, cwd=tmp_path / "here", env=ENVIRONMENT)
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0 and len(results) == len(written), (
        f"the reader ended at {list(written.values())[len(results):][:1]}: {run.stderr[-300:]}")
    wrong = []
    for path, code, sentence, seconds, done, _ in results:
        title, refused = written[path]
        fine = (code == 2 and sentence.startswith(path) and sentence.isprintable() and len(sentence) < len(path) + 400
                if code else not refused)
        if not fine or seconds > 5 or done:
            wrong.append(f"{title}: {code} {sentence[:300]} ({seconds:.1f} s) {done}")
    assert not wrong, f"{len(wrong)} of {len(written)}:\n" + "\n".join(wrong)
    assert os.listdir(tmp_path / "here") == [] and run.stderr == ""
    print(f"{kind}: {len(results)} files, {sum(code == 2 for _, code, *_ in results)} refused, "
          f"slowest {max(r[3] for r in results):.2f} s, peak {results[-1][5] // 1024} MiB")


def test_the_cage_sees_what_a_pickle_can_do(tmp_path):
    """Python's own unpickler on the same file: without this the test above could not fail."""
    code = ("import pickle, sys, caged_reader\nsys.addaudithook(caged_reader.watch)\n"
            "pickle.load(open('their.bin', 'rb'))\nopen('x', 'w')\nprint(caged_reader.done)")
    (tmp_path / "their.bin").write_bytes(HOSTILE["pickle: os.system, protocol 4"][0])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                         env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    assert all(word in run.stdout for word in ("pickle.find_class", "os.system", "open 'x' to write")), run.stderr
    assert sorted(os.listdir(tmp_path)) == ["ran", "their.bin", "x"]


DOZEN = {"os.system": HOSTILE["pickle: os.system, protocol 2"][0], "a zip bomb": HOSTILE["zip: a compressed bomb"][0],
         "lists in lists": HOSTILE["pickle: lists in lists"][0],
         **{key: malformed.MORE_HOSTILE[key] for key in ("LONG4 of 2 GiB", "BINBYTES8 of 1 GiB",
                                                         "a persistent id that climbs", "frames in frames")}}


def limited(what: int = resource.RLIMIT_AS):
    resource.setrlimit(what, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (5, 5))  # processor time: a busy machine is no failure


@pytest.fixture(scope="module")
def safetensors():
    return {title: data for title, data, _ in malformed.broken_safetensors()}


@pytest.mark.parametrize("title", ["cut at 8", "a header of 18446744073709551615 bytes", "shape: 2 ** 40",
                                   "Stable Diffusion XL", "nan in F16", "100,000 tensors", *DOZEN])
def test_the_command_refuses_with_exit_code_2(title, tmp_path, safetensors):
    path = tmp_path / ("their.bin" if title in DOZEN else "their.safetensors")
    path.write_bytes(DOZEN[title] if title in DOZEN else safetensors[title])
    run = subprocess.run([sys.executable, "-m", "styleblend", "inspect", str(path)], capture_output=True, text=True,
                         cwd=tmp_path, env=ENVIRONMENT, preexec_fn=limited)
    assert run.returncode == 2 and run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and run.stderr.startswith("styleblend: ") and str(path) in run.stderr
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("title", DOZEN)
def test_load_refuses_the_same(title, tmp_path, capsys):
    (tmp_path / "their.bin").write_bytes(DOZEN[title])
    assert main(["load", str(tmp_path / "their.bin"), "--name", "x", "--output", str(tmp_path / "adapters")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["their.bin"]


@pytest.mark.parametrize("size", [5 << 30, 900 << 30])
def test_a_whole_checkpoint_is_known_from_its_names(size, tmp_path):
    """Gigabytes that are not read: the file has holes instead of data.

    safetensors maps the whole file, so only memory that is written counts.
    """
    header = {"model.diffusion_model.input_blocks.0.0.weight": malformed.entry("F32", (size // 4,), 0, size)}
    for path, data, words in ((tmp_path / "sd.safetensors", malformed.safetensors(header), "a whole checkpoint"),
                              (tmp_path / "sd.ckpt", b"PK\x03\x04", "more than any adapter")):
        path.write_bytes(data)
        try:
            os.truncate(path, len(data) + size)
        except OSError:
            pytest.skip("the file system has no files of this size")
        run = subprocess.run([sys.executable, "-m", "styleblend", "inspect", str(path)], capture_output=True,
                             text=True, env=ENVIRONMENT, cwd=tmp_path,
                             preexec_fn=lambda: limited(resource.RLIMIT_DATA))
        assert run.returncode == 2 and words in run.stderr


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64", "old BF16"])
@pytest.mark.parametrize("fits", [True, False])
def test_a_lora_as_large_as_can_be_stays_below_a_gigabyte(kind, fits, tmp_path):
    """The largest file that is read, whatever its numbers are, with an alpha that wants them scaled.

    And one with a little more.
    """
    width, old = {"F16": 2, "BF16": 2, "F64": 8}.get(kind, 4), kind.startswith("old")
    count = MAX_BYTES // max(4, width) - 200 + (0 if fits else 300)
    up = count - 128
    if old:  # its file may be as large as that, and its numbers take twice the memory
        count = MAX_BYTES // 2 - 2000 + (0 if fits else 2100)
        data = old_storage(count, "BFloat16Storage")
        path, content = tmp_path / "their.bin", old_file(mapping(w=tensor((1, count), (count, 1), data=data)),
                                                         _0=np.zeros(count, np.uint16))
        path.write_bytes(content)
    else:
        path, begin = tmp_path / "their.safetensors", 128 * width
        end = begin + up * width
        header = {malformed.LAYER + "down.weight": malformed.entry(kind, (1, 128), 0, begin),
                  malformed.LAYER + "up.weight": malformed.entry(kind, (up, 1), begin, end),
                  malformed.LAYER[:-5] + "alpha": malformed.entry("F32", (), end, end + 4)}
        path.write_bytes(malformed.safetensors(header))
        os.truncate(path, path.stat().st_size + end)
        with open(path, "ab") as file:
            file.write(np.float32(2).tobytes())
    run = subprocess.run([sys.executable, "-c", "import sys, caged_reader\nprint(*caged_reader.read(sys.argv[1]))\n"
                          "print(caged_reader.peak() >> 10)", str(path)], capture_output=True, text=True, cwd=tmp_path,
                         env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    said, peak = run.stdout.splitlines()
    assert said.startswith("0" if fits and not old else "2"), said
    assert fits and not old or "more than any adapter" in said
    assert int(peak) < (953 if fits else 700), f"{peak} MiB"


def test_settings_that_are_none(tmp_path):
    from styleblend.errors import StyleBlendError
    from styleblend.settings import read_settings, read_style_settings
    for data in (b"", b"[", b"[]", b"null", b"\xff", b'{"blend": 3}', b'{"parts": []}', b'{"method": "x"}',
                 b'{"preset": {"a": 1}}', b'{"pre\\u001bset": 1}', b"[" * 200_000, b'{"seeds": ' * 5000,
                 b'{"source": ' + b"9" * 9999 + b"}", b'{"a": "' + b"x" * (5 << 20) + b'"}'):
        (tmp_path / "style.json").write_bytes(data)
        with pytest.raises(StyleBlendError) as error:
            read_style_settings(tmp_path / "style.json")
        assert str(error.value).isprintable() and len(str(error.value)) < len(str(tmp_path)) + 400, data[:30]
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n"
                                        for i in range(1, 40)) + "base: *a39\n"
    for text in ("", "- 1", "1: 2", "[" * 20_000, "\x00", "!!python/object/apply:os.system [touch ran]", bomb,
                 "- " * 20_000, "? " * 20_000, "!" * 20_000, "a: " * 20_000, "&a " * 20_000, "{a: " * 40):
        start = time.process_time()
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(StyleBlendError) as error:
            read_settings(tmp_path / "config.yaml")
        assert "\n" not in str(error.value) and len(str(error.value)) < len(str(tmp_path)) + 500, text[:30]
        assert time.process_time() - start < 5, text[:30]
