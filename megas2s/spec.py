"""Configuration: frozen dataclasses that check themselves, and the one door from YAML to them.

    @spec
    class SpanCorruption:
        name: Literal["span_corruption"] = "span_corruption"
        noise_density: float = 0.15

A `@spec` class lives beside the code that reads it; `recipe.py` only composes them. `parse` turns plain
data into one, and every mistake into a sentence that names the path, the value found and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from megas2s.errors import BadConfig

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def spec(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass whose values are checked and whose unknown keys are refused."""
    return pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore[return-value]


def read_yaml(text: str, *, source: str) -> Any:
    """The plain data in a YAML text; raises BadConfig, also for a key stated twice, of which the last would win."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is a number or a date that cannot be
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise BadConfig(f"{source} is not valid YAML: {reason}") from None


def parse(kind: Any, data: object, *, source: str) -> Any:
    """`data` (plain dicts, lists, scalars) as a `kind`; raises BadConfig with one line per mistake and its path."""
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        lines = [f"{source}: {_sentence(kind, problem)}" for problem in error.errors()]
        raise BadConfig("\n".join(lines)) from None


def plain(kind: Any, value: object) -> Any:
    """The inverse of `parse`: dicts, lists and scalars that `parse(kind, ...)` accepts."""
    return TypeAdapter(kind).dump_python(value, mode="json")


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """A hint that names the known word closest to `word`, or all known words where none is close."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(choices)}"


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                problem = f"the key {key.value!r} of line {lines[key.value]} is stated again"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def _sentence(kind: Any, problem: Any) -> str:
    location = problem["loc"]
    path = ".".join(str(part) for part in location)
    if problem["type"] == "unexpected_keyword_argument":
        owner = _type_at(kind, location[:-1])
        names = [field.name for field in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        return f"{path}: unknown key; {nearest(str(location[-1]), names)}"
    if problem["type"] == "missing_argument" or problem["type"] == "missing":
        return f"{path}: this key is required and absent"
    if problem["type"] == "union_tag_not_found":
        return f"{path}: this needs the key {problem['ctx']['discriminator']}, which says what the other keys are of"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = problem.get("input")
    shown = "" if problem["type"] == "value_error" else f", found {_short(found)}"
    return f"{path}: {message}{shown}" if path else f"{message}{shown}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _type_at(kind: Any, location: tuple[int | str, ...]) -> Any:
    """The type that sits at `location`, a pydantic error path (field names, list indices, union tags)."""
    for part in location:
        kind = _step(kind, part)
    return _unwrap(kind)


def _step(kind: Any, part: int | str) -> Any:
    kind = _unwrap(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [_unwrap(member) for member in typing.get_args(kind)]
        tagged = [member for member in members if _tag(member) == part or getattr(member, "__name__", None) == part]
        if tagged:
            return tagged[0]
        stepped = [_step(member, part) for member in members if dataclasses.is_dataclass(member)]
        return next((step for step in stepped if step is not None), None)
    if dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind, include_extras=True).get(str(part))
    arguments = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
    return arguments[-1] if arguments else None


def _unwrap(kind: Any) -> Any:
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        if len(members) == 1:
            return _unwrap(members[0])
    return kind


def _tag(member: Any) -> object:
    if not dataclasses.is_dataclass(member):
        return None
    return next((field.default for field in dataclasses.fields(member) if field.name == "name"), None)
