"""What a family of Hugging Face models is to us: a table of names, a plan of its file, a configuration there and back.

    table    encoder.layers.{n}.ffn.up         ->  model.encoder.layers.{n}.fc1
    plan     Entry("model.encoder.embed_positions.weight", "encoder.positions.weight", (514, 64), leading=2)

The plan lists every tensor of the file and where its values come from. Export writes it line by line, import reads
it backwards, so the two cannot drift apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.tokenizer.vocab import Vocabulary

Part = Literal["encoder", "seq2seq"]
Settings = Mapping[str, object]  # the content of a config.json, defaults filled in

NUMBER = "{n}"

ACTIVATIONS: dict[str, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
}  # ours -> theirs

# Sizes, and what says how a model is trained and not what it is.
ALWAYS_FREE = {"vocab_size", "hidden_size", "num_heads", "ffn_size", "num_encoder_layers", "num_decoder_layers"}
ALWAYS_FREE |= {"max_positions", "tying", "family", "init", "init_std", "pad_id", "decoder_start"}
ALWAYS_FREE |= {"relative_buckets", "relative_max_distance"}
ALWAYS_FREE |= {"dropout", "attention_dropout", "ffn_dropout", "output_dropout"}


class Entry(NamedTuple):
    """One tensor of a Hugging Face file: `leading` rows of zeros, then the values of the canonical tensor `ours`.

    `ours` is a canonical name or the role of a vocabulary matrix (`models.parameters.owners` says which matrix plays
    it); without one the tensor is all zeros.
    """

    theirs: str
    ours: str | None
    shape: tuple[int, ...]
    leading: int = 0


class Derived(NamedTuple):
    """A tensor that a file holds in another layout: which one it is made of, and how."""

    there: str
    make: Callable[[Tensor], Tensor]
    note: str = ""  # what a person should know of it


class Found(Protocol):
    """What may be asked about the tensors of a folder before its shape is known: what config.json does not say."""

    @property
    def names(self) -> Set[str]:
        """All tensors."""

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""

    def zero(self, name: str) -> bool:
        """Whether a tensor is all zeros."""


class Family(NamedTuple):
    """One family of models in transformers and the part of ours that it is."""

    model_type: str
    part: Part
    architectures: Mapping[
        str, bool
    ]  # class name -> whether it has a head on the vocabulary; the first of each is ours
    settings: Callable[[ModelConfig, Vocabulary], dict[str, object]]  # the content of config.json; raises BadConfig
    model_config: Callable[[Settings, Found], ModelConfig]  # its inverse; raises BadConfig: what we cannot represent
    entries: Callable[[ModelConfig, bool], list[Entry]]  # the file of the class with or without a head
    copies: Callable[[ModelConfig, bool], dict[str, str]]  # tensors a file may repeat -> the one each must equal
    keys: Mapping[str, str]  # ours -> config.json's, for refusals
    otherwise: Callable[[ModelConfig], dict[str, str]] = lambda _: {}  # a tensor that may lack -> what is read for it
    body: str = ""  # what classes with a head put before the names of the body
    dropped: Sequence[str] = ()  # prefixes of tensors that we have no use for
    derived: Callable[[Settings, Found], dict[str, Derived]] = lambda theirs, found: {}  # what files hold otherwise
    any_pad: bool = False  # whether nothing that is computed depends on which id padding has
    no_class: str = ""  # why what comes as this family goes back as none; a family without a class of its own

    def architecture(self, *, head: bool) -> str:
        """The class that has, or has not, a head."""
        return next(name for name, has_head in self.architectures.items() if has_head == head)

    @property
    def has_head(self) -> bool:
        """Whether a class of the family has a head."""
        return any(self.architectures.values())

    def refusal(self, config: ModelConfig, vocabulary: Vocabulary) -> Unlike | None:
        """Why the family cannot be a model of this shape; None where it can."""
        try:
            self.settings(config, vocabulary)
        except Unlike as refusal:
            return refusal
        return None


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


class Unlike(BadConfig):
    """A shape that a family cannot be, with each reason."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def fixed(config: ModelConfig, title: str, *, free: Collection[str], **expected: object) -> None:
    """Refuse a shape that a family cannot be: every switch but `free` ones has its default or what is `expected`.

    A switch that a family does not know of is thereby refused, also one that is new.
    """
    reasons = []
    for field in dataclasses.fields(ModelConfig):
        if field.name in ALWAYS_FREE or field.name in free:
            continue
        wanted, found = expected.get(field.name, field.default), getattr(config, field.name)
        if found != wanted:
            reasons.append(f"the model's {field.name} is {found!r}, and {title} has {wanted!r} only")
    if reasons:
        raise Unlike(reasons)


def decoder_start(config: ModelConfig, vocabulary: Vocabulary) -> int:
    """The id that the decoder reads first."""
    return config.pad_id if config.decoder_start == "pad" else vocabulary.eos


def start_of(settings: Settings) -> str:
    """`decoder_start` of a configuration: the end of a row, or padding; absent, as in MBart's, the end."""
    start, pad, eos = (settings.get(f"{name}_token_id") for name in ("decoder_start", "pad", "eos"))
    if start is None or start == eos:
        return "eos"
    if start == pad:
        return "pad"
    raise BadConfig(
        f"config.json has decoder_start_token_id {start}, and decoders here start from eos_token_id ({eos}) or "
        f"pad_token_id ({pad}); set it to one of them, or convert another model"
    )


def read_keys(settings: Settings, *, integers: Mapping[str, str], numbers: Mapping[str, str]) -> dict[str, object]:
    """The values that are plain numbers on both sides; both tables say ours -> theirs."""
    found: dict[str, object] = {ours: number(settings, theirs) for ours, theirs in numbers.items()}
    return found | {ours: whole(settings, theirs) for ours, theirs in integers.items()}


@contextlib.contextmanager
def in_their_words(keys: Mapping[str, str]) -> Iterator[None]:
    """A refusal that comes of a config.json names its keys and not ours."""
    try:
        yield
    except BadConfig as refusal:
        ours = re.compile(rf"\b({'|'.join(map(re.escape, keys))})\b")
        words = str(refusal).replace("the model's ", "config.json's ")
        raise BadConfig(ours.sub(lambda found: keys[found[0]], words)) from None


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
    """Our name of an activation that both sides have."""
    name = str(settings.get(key))
    if name not in ACTIVATIONS.values():
        known = ", ".join(ACTIVATIONS.values())
        raise BadConfig(f"config.json has {key} {name!r}; models here have one of {known}, convert another model")
    return next(ours for ours, theirs in ACTIVATIONS.items() if theirs == name)
