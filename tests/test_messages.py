"""What the program says to a user fits into three lines of a terminal."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES, COLUMNS, VOICE = 3, 80, "styleblend: "
VALUE = 24  # characters that a value in a sentence is taken to have: of a path more, of a number fewer
SPEAKERS = {"StyleBlendError", "Busy", "Stopped", "Log", "say", "tell", "warn"}


def length(node: ast.expr) -> int:
    """Characters of the longest text that an expression in the source makes."""
    if isinstance(node, ast.Constant):
        return len(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return sum(length(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return length(node.left) + length(node.right)
    if isinstance(node, ast.IfExp):
        return max(length(node.body), length(node.orelse))
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, (ast.IfExp, ast.JoinedStr, ast.Constant)):
        return length(node.value)
    return VALUE


def sentences(source: str):
    """(line, characters) of each sentence that is said in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in SPEAKERS:
                yield node.lineno, len(VOICE) + length(node.args[0])


FILES = sorted((ROOT / "styleblend").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_sentence_has_three_lines_at_most(path):
    found = [f"line {line}: {size}" for line, size in sentences(path.read_text(encoding="utf-8"))
             if size > LINES * COLUMNS]
    assert not found


def test_sentences_are_found_and_measured():
    source = 'raise StyleBlendError(f"{path} is " + ("long" if x else "longest"))\nsay("short")\nprint("no")'
    assert list(sentences(source)) == [(1, len(VOICE) + VALUE + 4 + 7), (2, len(VOICE) + 5)]
    assert sum(len(list(sentences(path.read_text(encoding="utf-8")))) for path in FILES) > 200
