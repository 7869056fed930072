"""Which batch row is what: order, branches of unequal counts, one condition in the place of all, and what cannot be."""
from __future__ import annotations

import pytest

from styleblend.models.rows import Rows

GUIDED = ("negative", "full")
DUAL = ("negative", "content", "style", "full")


def test_row_order_is_the_published_one():
    rows = Rows({"coarse": 1, "fine": 1}, GUIDED)
    order = [(branch, condition) for condition in GUIDED for branch in ("coarse", "fine")]
    assert [rows.row(branch, condition, 0) for branch, condition in order] == [0, 1, 2, 3] and rows.count == 4
    assert rows.of("coarse") == [(0, "negative", 0), (2, "full", 0)]
    assert rows.of("fine") == [(1, "negative", 0), (3, "full", 0)]


def test_rows_of_a_batch():
    rows = Rows({"coarse": 3, "fine": 3}, GUIDED)
    found = [rows.row(branch, condition, n) for condition in GUIDED for branch in ("coarse", "fine") for n in range(3)]
    assert found == list(range(12)) == list(range(rows.count))
    assert [(row, n) for row, _, n in rows.of("fine")] == [(3, 0), (4, 1), (5, 2), (9, 0), (10, 1), (11, 2)]


def test_rows_without_guidance():
    rows = Rows({"coarse": 2, "fine": 2})
    assert rows.count == 4
    assert [(row, n) for row, _, n in rows.of("coarse")] == [(0, 0), (1, 1)]
    assert [(row, n) for row, _, n in rows.of("fine")] == [(2, 0), (3, 1)]
    with pytest.raises(ValueError):
        rows.row("coarse", "negative", 0)


def test_branches_of_unequal_counts():
    """One reference for three targets, under four conditions: the reference's one picture is that of every sample."""
    rows = Rows({"reference": 1, "target": 3}, DUAL)
    assert (rows.latents, rows.count) == (4, 16) and rows.latents_of("reference") == range(0, 1)
    assert rows.latents_of("target") == range(1, 4)
    assert [rows.row("target", condition, 2) for condition in DUAL] == [3, 7, 11, 15]
    assert [rows.row("reference", "style", n) for n in range(3)] == [8, 8, 8]
    everything = sorted(row for branch in rows.branches for row, *_ in rows.of(branch))
    assert everything == list(range(16))
    assert rows.of("reference") == [(0, "negative", 0), (4, "content", 0), (8, "style", 0), (12, "full", 0)]
    with pytest.raises(ValueError, match="branch target has 3 pictures, and not one of number 3"):
        rows.row("target", "full", 3)


def test_one_condition_in_the_place_of_all():
    """Before the text comes in a row stands for its picture under every condition, and what is named may be any of
    them."""
    rows = Rows({"reference": 1, "target": 3}, DUAL)
    shared = rows.as_shared()
    assert (shared.latents, shared.count) == (4, 4) and not rows.shared
    assert [shared.row("target", condition, 1) for condition in DUAL] == [2] * 4
    assert shared.of("target") == [(1, "full", 0), (2, "full", 1), (3, "full", 2)]


@pytest.mark.parametrize("branches, conditions, words", [
    ({}, GUIDED, "no rows"), ({"fine": 1}, (), "no rows"), ({"fine": 0}, GUIDED, "no rows"),
    ({"coarse": 1, "fine": -1}, GUIDED, "no rows"),
    ({"fine": 1}, ("full", "negative", "full"), "a condition stands twice")])
def test_rows_that_cannot_be(branches, conditions, words):
    with pytest.raises(ValueError, match=words):
        Rows(branches, conditions)


@pytest.mark.parametrize("ask", [lambda rows: rows.row("plain", "full", 0), lambda rows: rows.of("plain"),
                                 lambda rows: rows.latents_of("plain")])
def test_a_branch_that_is_not_there(ask):
    with pytest.raises((KeyError, ValueError)):
        ask(Rows({"fine": 1}, GUIDED))
