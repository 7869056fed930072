"""Forms from settings: fields with their meaning and bounds; what is left empty is not asked for."""
import re

import pytest

from styleblend.errors import StyleBlendError
from styleblend.settings import KINDS, BlendSettings, SamplingSettings, TrainingSettings, validated
from styleblend.ui.fields import asked_for, fields_of, filled_in

SAMPLING = {field.name: field for field in fields_of(SamplingSettings, SamplingSettings(steps=12))}


def test_a_field_says_what_it_means_and_what_it_may_be():
    steps, sampler = SAMPLING["steps"], SAMPLING["sampler"]
    assert (steps.kind, steps.least, steps.most, steps.default) == ("whole", 1, 999, 12)
    assert steps.bounds == "1 to 999; " and "schedule" in steps.description
    assert sampler.kind == "choice" and "ddim" in sampler.choices
    assert SAMPLING["guidance"].kind == "number" and SAMPLING["saved_size"].kind == "whole"


def test_what_is_left_empty_is_not_asked_for():
    fields = list(SAMPLING.values())
    values = {"steps": "7", "guidance": "2.5", "sampler": "", "seed": None, "fine_negative": "  "}
    found = asked_for(fields, [values.get(field.name, "") for field in fields])
    assert found == {"steps": 7, "guidance": 2.5}
    assert validated(SamplingSettings, found, "here").steps == 7


def test_the_settings_of_each_method_have_fields():
    """None of them is named in the page: what a new method says is shown as well."""
    for name, kind in KINDS.items():
        found = list(fields_of(kind.drawing))
        assert found and all(field.description or field.label for field in found), name
    assert "references" not in [field.name for field in fields_of(KINDS["style_aligned"].drawing)]


def test_no_field_names_a_place():
    """A browser that could name a folder or a hub id would have it opened."""
    kinds = [SamplingSettings, TrainingSettings, *(kind.drawing for kind in KINDS.values())]
    fields = [field for kind in kinds for field in fields_of(kind, None if kind is not TrainingSettings else kind())]
    assert not [field.name for field in fields if field.kind == "text" and re.search(
        "folder|hub id|its file", field.description)]
    assert not {"encoder", "look_alikes.clip", "look_alikes.clip_id", "references"} & {field.name for field in fields}


def test_settings_come_back_as_they_were():
    fields = list(fields_of(BlendSettings))
    said = BlendSettings(scale=0.7, c2f_sites=[1, 2]).model_dump()
    shown = filled_in(fields, said)
    assert BlendSettings(**asked_for(fields, shown)) == BlendSettings(**said)
    assert [text for text in shown if text] == ["[1, 2]", "0.7"]


def test_groups_become_groups():
    fields = list(fields_of(TrainingSettings, TrainingSettings()))
    values = ["5" if field.name == "coarse.steps" else "no" if field.name == "coarse.flip" else "" for field in fields]
    assert asked_for(fields, values) == {"coarse": {"steps": 5, "flip": False}}


@pytest.mark.parametrize("name, value, words", [
    ("steps", "many", "no whole number"), ("steps", "2.5", "no whole number"), ("guidance", "1e", "no number"),
    ("sampler", "rm -rf", "there is no 'rm -rf'")])
def test_what_is_no_value_is_said(name, value, words):
    with pytest.raises(StyleBlendError, match=words):
        asked_for([SAMPLING[name]], [value])


def test_a_list_is_a_list():
    field = next(field for field in fields_of(BlendSettings) if field.name == "c2f_sites")
    with pytest.raises(StyleBlendError, match="write a list such as"):
        asked_for([field], ["1, 2"])
