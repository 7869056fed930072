"""Five minutes of coverage-guided fuzzing of the readers (tests/fuzz_readers.py)."""
import os
import re
import subprocess
from pathlib import Path

import malformed
import pytest
from test_hostile_pickles import HOSTILE
from test_pickles import START, STOP, mapping, tensor

PYTHON, SECONDS = os.environ.get("STYLEBLEND_FUZZ_PYTHON"), os.environ.get("STYLEBLEND_FUZZ_SECONDS", "300")


def seeds(folder: Path) -> None:
    """Whole files of every kind and the broken ones that are small, as inputs to start from."""
    inputs = [b"\0" + malformed.GOOD_PICKLE, b"\1" + START + malformed.PROGRAM + STOP,
              b"\1" + START + mapping(w=tensor(), v=tensor()) + STOP, b"\2" + malformed.GOOD_ZIP,
              b"\2" + malformed.GOOD_OLD, b"\4" + malformed.safetensors(*malformed.good_parts())]
    inputs += ([b"\2" + data for data, _ in HOSTILE.values()]
               + [b"\0" + data for data in malformed.MORE_HOSTILE.values()])
    inputs += ([b"\4" + data for _, data, _ in malformed.broken_safetensors()]
               + [b"\2" + data for _, data, _ in malformed.broken_pickles()])
    for number, data in enumerate(data for data in inputs if len(data) < 4000):
        (folder / f"{number:04}").write_bytes(data)


@pytest.mark.full
@pytest.mark.skipif(not PYTHON, reason="STYLEBLEND_FUZZ_PYTHON names no Python with atheris and the rest that "
                                       "tests/fuzz_readers.py names")
def test_nothing_but_the_one_error_comes_out(tmp_path, tmp_path_factory):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    seeds(corpus)
    options = [f"-max_total_time={SECONDS}", "-timeout=600", "-report_slow_units=600", "-rss_limit_mb=1024",
               "-max_len=8192", "-print_final_stats=1", f"-artifact_prefix={tmp_path}/"]
    run = subprocess.run(["nice", "-n", "10", PYTHON, str(Path(__file__).parents[1] / "fuzz_readers.py"), str(corpus),
                          *options], capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, "OPENBLAS_NUM_THREADS": "1",
                              "TMPDIR": str(tmp_path_factory.mktemp("files"))})
    stated = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    assert stated, run.stdout[-2000:] + run.stderr[-2000:]  # it did not come to its end
    runs = int(stated[1])
    found = [path for path in tmp_path.iterdir() if path != corpus]
    print(f"{runs} executions in {SECONDS} s, {len(found)} finds: {found}")
    assert run.returncode == 0 and not found, run.stdout[-2000:] + run.stderr[-2000:]
    assert runs > 20 * int(SECONDS)
