"""What a family of Hugging Face models is to us: a table of names, a plan of its file, a configuration there and back.

    table    encoder.layers.{n}.ffn.up         ->  model.encoder.layers.{n}.fc1
    plan     Entry("model.encoder.embed_positions.weight", "encoder.positions.weight", (514, 64), leading=2)

The plan lists every tensor of the file and where its values come from. Export writes it line by line, import reads
it backwards, so the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.tokenizer.vocab import Vocabulary

Part = Literal["encoder", "seq2seq"]
Settings = Mapping[str, object]  # the content of a config.json, defaults filled in

NUMBER = "{n}"


class Entry(NamedTuple):
    """One tensor of a Hugging Face file: `leading` rows of zeros, then the values of the canonical tensor `ours`.

    `ours` is a canonical name or the role of a vocabulary matrix (`models.parameters.owners` says which matrix plays
    it); without one the tensor is all zeros. An imported one that is not, and has one row, is added to every row of
    `folded_into`.
    """

    theirs: str
    ours: str | None
    shape: tuple[int, ...]
    leading: int = 0
    folded_into: str | None = None


class Family(NamedTuple):
    """One family of models in transformers and the part of ours that it is."""

    model_type: str
    part: Part
    architectures: Mapping[str, bool]  # class name -> whether it has a head on the vocabulary
    settings: Callable[[ModelConfig, Vocabulary], dict[str, object]]  # the content of config.json; raises BadConfig
    model_config: Callable[[Settings], ModelConfig]  # its inverse; raises BadConfig naming what we cannot represent
    entries: Callable[[ModelConfig, bool], list[Entry]]  # the file of the class with or without a head
    copies: Callable[[ModelConfig, bool], dict[str, str]]  # tensors a file may repeat -> the one each must equal
    dropped: Sequence[str] = ()  # prefixes of tensors that transformers adds and we have no use for

    def architecture(self, *, head: bool) -> str:
        """The class that has, or has not, a head."""
        return next(name for name, has_head in self.architectures.items() if has_head == head)


class Shape(NamedTuple):
    """The part of a model that is exported, as a class of transformers."""

    family: Family
    config: ModelConfig  # of the part
    head: bool

    @property
    def entries(self) -> list[Entry]:
        """The tensors of the file."""
        return self.family.entries(self.config, self.head)

    @property
    def architecture(self) -> str:
        """The class of transformers."""
        return self.family.architecture(head=self.head)


class NameTable:
    """Canonical names to theirs, by patterns without the last part (`weight`, `bias`); `{n}` is a layer's number."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._patterns = [
            (re.compile(re.escape(ours).replace(re.escape(NUMBER), r"(\d+)")), theirs) for ours, theirs in table.items()
        ]

    def theirs(self, name: str) -> str:
        """The name of a canonical parameter in their file."""
        stem, _, leaf = name.rpartition(".")
        for pattern, theirs in self._patterns:
            if found := pattern.fullmatch(stem):
                return f"{theirs.replace(NUMBER, found[1])}.{leaf}" if found.groups() else f"{theirs}.{leaf}"
        raise KeyError(f"no name for {name}")


def require(settings: Settings, source: str, expected: Mapping[str, object]) -> None:
    """Refuse a configuration whose keys have other values than the only ones we can represent."""
    for key, value in expected.items():
        found = settings.get(key, value)
        if found != value:
            raise BadConfig(
                f"{source} has {key} {found!r}, and models here have {value!r} only; set it so in config.json if the "
                "weights mean the same without it, or convert another model"
            )


def number(settings: Settings, key: str) -> float:
    """A number that a configuration must have."""
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadConfig(f"config.json has {key} {value!r}, a number is needed; complete it")
    return value


def whole(settings: Settings, key: str) -> int:
    """An integer that a configuration must have."""
    return int(number(settings, key))


def activation(settings: Settings, key: str) -> str:
    """An activation that both sides have."""
    name = settings.get(key)
    if name not in ("gelu", "relu"):
        raise BadConfig(f"config.json has {key} {name!r}; models here have gelu or relu, convert another model")
    return str(name)
