"""The stand-ins for CUDA's libraries refuse what a card would refuse, and write down what they were asked for."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_CARD = "NVIDIA's wheels are not here: pip install \"styleblend-jittor[cuda13]\""
# Columns first: a (m x k) times b (k x n); `room`: bytes of the result.
PRODUCTS = """
import ctypes, sys
folder, m, n, k, pitch, room = sys.argv[1], *map(int, sys.argv[2:])
card = ctypes.CDLL(folder + "/libcudart.so.13", ctypes.RTLD_GLOBAL)
cublas = ctypes.CDLL(folder + "/libcublas.so.13")
a, b, c = (ctypes.c_void_p() for _ in range(3))
for pointer, size in ((a, 4 * m * k), (b, 4 * k * n), (c, room)):
    assert card.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
print(cublas.cublasSgemm_v2(None, 0, 0, m, n, k, None, a, pitch, b, k, None, c, m))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """The folder of the stand-ins, made as by hand."""
    pytest.importorskip("nvidia", reason=NO_CARD)
    folder = tmp_path_factory.mktemp("dry")
    said = subprocess.run([sys.executable, "tests/gpu/stand_in_cuda.py", str(folder)], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, check=True).stdout
    assert said.splitlines() == [f"export HOME={folder}", f"export LD_LIBRARY_PATH={folder}/stand_in"]
    return folder / "stand_in"


@pytest.mark.parametrize("sizes, wrong", [
    ((8, 6, 4, 8, 192), None),
    ((8, 6, 4, 7, 192), "cublasSgemm: a is 8 x 4 with a leading dimension of 7"),
    ((8, 6, 4, 8, 188), "cublasSgemm: c is 192 bytes at .*, of which the card has 188")])
def test_a_product_within_its_memory(libraries, tmp_path, sizes, wrong):
    report = tmp_path / "report.txt"
    run = subprocess.run([sys.executable, "-c", PRODUCTS, str(libraries), *map(str, sizes)], text=True,
                         stdout=subprocess.PIPE, check=True, env={"STAND_IN_REPORT": str(report)})
    lines = [line.split("\t") for line in report.read_text().splitlines()]
    assert ["call", "cudaMalloc", "3"] in lines and ["call", "cublasSgemm", "1"] in lines
    refused = [name for kind, name, _ in lines if kind == "wrong"]
    assert (run.stdout != "0\n") == bool(refused) == bool(wrong)
    assert not wrong or re.fullmatch(wrong, refused[0])


@pytest.mark.parametrize("variables, cards", [({}, "A stand-in for a card 90 85899345920"), (
    {"STAND_IN_CARDS": "2", "STAND_IN_CAPABILITY": "75", "STAND_IN_MEMORY": "8000000000"},
    "A stand-in for a card 75 8000000000\n" * 2)], ids=["one", "two"])
def test_the_cards_of_its_driver(libraries, variables, cards):
    """As many and as large as the environment says."""
    code = "from styleblend.machine.cards import cards\nfor one in cards(): print(one.name, one.capability, one.memory)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True,
                          env={"LD_LIBRARY_PATH": str(libraries), **variables}).stdout
    assert said.strip() == cards.strip()
