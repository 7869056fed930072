"""What all groups of settings have in common: they are frozen, and what is wrong in a file becomes one sentence."""
from __future__ import annotations

import reprlib
from typing import Annotated, Any, ClassVar, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Type, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from styleblend.errors import StyleBlendError, did_you_mean, nearest, printable


def of_whole_characters(text: str) -> str:
    """The text, if a picture's record can hold it: bytes of no encoding come from a command line as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_character", "holds bytes that are no text: type it again, in UTF-8") from None
    return text


Words = Annotated[str, AfterValidator(of_whole_characters)]  # that a picture is drawn by
A_PLACE = {"place": True}  # of a field that names a folder, a file or a hub id: a config may, a web page may not


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    renamed: ClassVar[Mapping[str, str]] = {}  # key of older files -> what it is called now
    within: ClassVar[Tuple[Type[Settings], ...]] = ()  # groups of which a field holds a part, as a dict

    @model_validator(mode="before")
    @classmethod
    def with_present_names(cls, data: Any) -> Any:
        """Older files keep their names. A setting that a file gives under both is refused: one would have no effect."""
        old = {key: cls.renamed[key] for key in data if key in cls.renamed} if isinstance(data, dict) else {}
        for key, name in old.items():
            if name in data:
                raise PydanticCustomError("two_names", "{name} is there also under its old name {key}: take {key} out",
                                          {"name": name, "key": key})
        return {old.get(key, key): value for key, value in data.items()} if old else data


class MethodSettings(Settings):
    """How a method draws: the settings that are its own."""

    strength: ClassVar[Optional[str]] = None  # the field that says how strong a style is drawn

    def facts(self) -> Dict[str, object]:
        """What the text in a picture that other programs read says of them: value by name, in this order."""
        return {}

    def pictures(self) -> List[str]:
        """The picture files that it looks at while it draws."""
        return []


def unknown(what: str, name: Any, known: Iterable[str]) -> PydanticCustomError:
    """The error for a name that is none of `known`."""
    return PydanticCustomError("unknown_name", "unknown {what}; {known}",
                               {"what": what, "known": did_you_mean(name, known)})


def groups_in(annotation: Any) -> Iterator[Type[Settings]]:
    """The settings classes that a type names, such as one in Optional or Dict."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inner in get_args(annotation):
        yield from groups_in(inner)


def known_keys(kind: Type[Settings]) -> List[str]:
    """All keys that a settings class, the groups in it and its own kinds know."""
    groups = [group for field in kind.model_fields.values() for group in groups_in(field.annotation)]
    inner = [key for group in (*groups, *kind.within, *kind.__subclasses__()) for key in known_keys(group)]
    return list(dict.fromkeys([*kind.model_fields, *inner]))


def in_words(error: ValidationError, kind: Type[Settings]) -> str:
    """The first problem as one sentence; an unknown key comes with the nearest known one."""
    first = error.errors()[0]
    where = printable(".".join(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        near = nearest(str(first["loc"][-1]), [key for key in known_keys(kind) if key != first["loc"][-1]])
        return f"unknown key {where}" + (f"; did you mean {near}?" if near else "")
    message, given = first["msg"][0].lower() + first["msg"][1:], printable(reprlib.repr(first.get("input")))
    return f"{where}{': ' if where else ''}{message} (got {given})"


def validated(kind: Type[Settings], data: Any, source: str) -> Any:
    """An instance of `kind`; StyleBlendError with `source` for the first problem."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise StyleBlendError(f"{source}: {in_words(error, kind)}") from None
