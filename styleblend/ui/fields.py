"""Forms from settings: what a settings class says of its fields becomes fields of a page, and back.

An empty field means what counts anyway: the config's, the style's own, or the default. So what is filled in is what is
asked for, and nothing else.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.settings import Settings
from styleblend.settings.validation import groups_in

YES, NO = "yes", "no"
BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")


@dataclass(frozen=True)
class Field:
    """One field. `kind`: "choice", "number", "whole" (a whole number), "text", or "list" (as JSON)."""

    name: str  # with the group that it is in: "coarse.steps"
    kind: str
    default: Any
    description: str
    choices: Tuple[str, ...] = ()
    least: Optional[float] = None
    most: Optional[float] = None

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").replace(".", ": ")

    @property
    def bounds(self) -> str:
        """What the number may be, in words."""
        if self.least is None and self.most is None:
            return ""
        if self.most is None:
            return f"at least {self.least:g}; "
        return f"{'' if self.least is None else f'{self.least:g} '}to {self.most:g}; "

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if isinstance(self.default, bool):
            return YES if self.default else NO
        return "-" if self.default in (None, "") else str(self.default)


def fields_of(kind: Type[Settings], now: Optional[Settings] = None, names: Optional[Sequence[str]] = None,
              group: str = "") -> Iterator[Field]:
    """The fields of a settings class that a form can show; those of groups in it too, one level deep.

    `now`: settings whose values are the defaults that are shown. `names`: only these, in this order.
    """
    for name in names or kind.model_fields:
        info = kind.model_fields[name]
        default = getattr(now, name) if now is not None else info.get_default(call_default_factory=True)
        inner = next(groups_in(info.annotation), None)
        if inner is None:
            found = field_of(f"{group}{name}", info, default)
            if found:
                yield found
        elif not group and isinstance(default, Settings):
            yield from fields_of(type(default), default, group=f"{name}.")


def field_of(name: str, info: FieldInfo, default: Any) -> Optional[Field]:
    """A field for a plain value; None for what a form has no field for, such as folders: no browser may name one."""
    annotation = without_none(info.annotation)
    bounds = {bound: getattr(one, bound) for one in info.metadata for bound in BOUNDS
              if getattr(one, bound, None) is not None}
    least, most = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    extra = info.json_schema_extra
    extra = extra if isinstance(extra, dict) else {}
    if extra.get("place"):
        return None
    choices = tuple(extra.get("choices", ()))
    description = info.description or ""
    if str(get_origin(annotation)) == "typing.Literal":
        choices = tuple(map(str, get_args(annotation)))
    if choices:
        return Field(name, "choice", default, description, choices)
    if annotation is bool:
        return Field(name, "choice", default, description, (YES, NO))
    kinds = {int: "whole", float: "number", str: "text"}
    if annotation in kinds:
        return Field(name, kinds[annotation], default, description, (), least, most)
    if get_origin(annotation) in (list, tuple) and not any(groups_in(annotation)):
        return Field(name, "list", default, description)
    return None


def without_none(annotation: Any) -> Any:
    """The type in an Optional or an Annotated."""
    if get_origin(annotation) is Union:
        rest = [one for one in get_args(annotation) if one is not type(None)]
        return without_none(rest[0]) if len(rest) == 1 else annotation
    return without_none(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else annotation


def asked_for(fields: Sequence[Field], values: Sequence[Any]) -> Dict[str, Any]:
    """What was filled in, as a settings class takes it. StyleBlendError for what is no value of its field.

    Fields of a group become a dict within: {"coarse": {"steps": 5}}. Bounds are the settings class's to check.
    """
    found: Dict[str, Any] = {}
    for field, value in zip(fields, values):
        if value is None or isinstance(value, str) and not value.strip():
            continue
        group, dot, name = field.name.rpartition(".")
        place = found.setdefault(group, {}) if dot else found
        place[name] = value_of(field, value)
    return found


def given_for(fields: Sequence[Field], said: Mapping[str, Any], what: str) -> Dict[str, Any]:
    """What a program says of these fields in JSON, as a form would ask for it. `what`: the name of `said`.

    StyleBlendError for what is none of them: so a program names no file that a form has no field for.
    """
    flat: Dict[str, Any] = {}
    for name, value in said.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat.update({f"{name}.{key}" if key else name: one for key, one in inner.items()})
    known = {field.name: field for field in fields}
    for name in flat:
        if name not in known:
            raise StyleBlendError(f"{what}: there is no setting {name[:60]!r} here; {did_you_mean(name, known)}")
    return asked_for([known[name] for name in flat], [as_filled_in(value) for value in flat.values()])


def as_filled_in(value: Any) -> Any:
    """A value of JSON as it stands in a form."""
    if isinstance(value, bool):
        return YES if value else NO
    return json.dumps(value) if isinstance(value, list) else value


def value_of(field: Field, value: Any) -> Any:
    """One value, of the type that its field has."""
    if field.kind == "choice":
        if value not in field.choices:
            raise StyleBlendError(f"{field.label}: there is no {str(value)[:40]!r}, only {', '.join(field.choices)}")
        return value == YES if field.choices == (YES, NO) else value
    if field.kind in ("number", "whole"):
        return number_of(field.label, value, whole=field.kind == "whole")
    if field.kind == "list":
        try:
            return json.loads(value)
        except (ValueError, TypeError):
            raise StyleBlendError(f"{field.label}: write a list such as {json.dumps(field.default)}") from None
    return str(value)


def number_of(label: str, text: Any, whole: bool) -> Union[None, int, float]:
    """The number in a text; None where it is empty. StyleBlendError for what is no number."""
    text = str(text if text is not None else "").strip()
    if not text:
        return None
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise StyleBlendError(f"{label}: {text[:40]!r} is no {'whole ' * whole}number") from None


def filled_in(fields: Sequence[Field], said: Mapping[str, Any]) -> List[str]:
    """What a form shows for these settings: a field stays empty where they say what counts anyway."""
    shown = []
    for field in fields:
        value = said.get(field.name, field.default)
        if value == field.default or value is None:
            shown.append("")
        elif isinstance(value, bool):
            shown.append(YES if value else NO)
        else:
            shown.append(json.dumps(value) if field.kind == "list" else str(value))
    return shown
