"""A Hugging Face folder as canonical weights: the plan of its file read backwards, and nothing dropped unsaid.

What a folder holds beyond its plan is refused by name, except copies that are equal bit for bit and what transformers
makes up by itself (a pooler). The rows of a position table before the first position, which no real token reads, stay
behind.

A folder may hold more than its class has: published `BertModel` folders are files of a `BertForPreTraining`. So the
head is read where it is whole, also where the class has none.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from megas2s import files
from megas2s.convert import FAMILIES
from megas2s.convert.heads import read_heads
from megas2s.convert.names import Entry, Family, Part, Settings, in_their_words
from megas2s.convert.tensors import HubTensors
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.init import first_values
from megas2s.models.parameters import owners, parameter_shapes
from megas2s.rng import torch_seed

BESIDE = "megas2s.json"  # written by our export: what config.json has no key for
HEAD, RANDOM = "mlm_head", "random"  # in the metadata of weights whose head no one has trained
GENERATION = "generation_config.json"
FORCED = ("forced_bos_token_id", "forced_eos_token_id")  # what transformers' `generate` writes whatever the model says
WRITES = "method"  # in the metadata of weights that were taught to write, and how


class Incoming(NamedTuple):
    """A Hugging Face folder, checked and ready to be read."""

    config: ModelConfig
    metadata: dict[str, str]  # what our own export kept of the weights it came from
    notes: list[str]  # what a person should know, one sentence each
    sources: Mapping[str, Callable[[], Tensor]]  # canonical name -> its values
    any_pad: bool  # whether it computes the same whichever id pads rows

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every canonical tensor in turn."""
        for name in parameter_shapes(self.config):
            yield name, self.sources[name]()


def has_head(metadata: Mapping[str, str]) -> bool:
    """Whether the head of an encoder is one: not where it was made up and has had nothing to do since."""
    return metadata.get(HEAD) != RANDOM


def _forced(folder: Path, settings: Settings) -> dict[str, str]:
    """What answers begin and end with in transformers, by generation_config.json or config.json."""
    path = folder / GENERATION
    said = files.read_json(path) if path.is_file() else {}
    found = {name: said.get(name, settings.get(name)) for name in FORCED}
    return {name: str(token) for name, token in found.items() if isinstance(token, int)}


def incoming(folder: Path, settings: Settings, *, allow_pickle: bool = False) -> Incoming:
    """Check everything about a folder short of reading all its values; `settings` is its config.json with defaults."""
    families = [family for family in FAMILIES if family.model_type == settings["model_type"]]
    hub = HubTensors(folder, body=families[0].body, allow_pickle=allow_pickle)
    beside = _beside(folder)
    notes: list[str] = []
    family, named_head = _family(families, settings, hub, notes)
    with in_their_words(family.keys):
        derived = family.derived(settings, hub)
        hub.derive(derived)
        notes += [one.note for one in derived.values() if one.note]
        config = family.model_config(settings, hub)
    _read_for_another(family, config, hub, notes)
    config = _tied_again(config, beside.get("tying"), hub, notes)
    head = named_head or _has_whole_head(family, config, hub, notes)
    plan = family.entries(config, head)
    _check_names(family, config, head, hub, notes)
    _check_zeros(plan, hub)
    matrices = owners(config)
    sources: dict[str, Callable[[], Tensor]] = {}
    for entry in plan:
        if entry.ours is not None:  # of several tensors that are one matrix here, the last is the one that is used
            _check_shape(entry, hub)
            name = matrices.get(entry.ours, entry.ours)
            sources[name] = _reader(hub, entry)
    metadata = beside.get("metadata")
    kept = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    kept |= _forced(folder, settings)
    if family.part == "encoder" and not head:
        sources |= _fresh_head(config)
        kept[HEAD] = RANDOM
        notes.append("the folder has no head for masked language modelling; a random one was made")
    config, heads = read_heads(folder, config)
    sources |= {name: tensor.clone for name, tensor in heads.items()}
    if without := sorted(parameter_shapes(config).keys() - sources.keys()):
        raise BadConfig(f"{folder} holds nothing for {without[0]}; load the model with its head and save it")
    return Incoming(config, kept, notes, sources, family.any_pad)


def _family(families: Sequence[Family], settings: Settings, hub: HubTensors, notes: list[str]) -> tuple[Family, bool]:
    """The family of the class that a folder was saved from, and whether that class has a head.

    Old and hand-made configurations name no class; what the tensors are then decides.
    """
    names = settings.get("architectures") or []
    for name in names if isinstance(names, list) else []:
        for family in families:
            if name in family.architectures:
                return family, family.architectures[name]
    wanted = " or ".join(name for family in families for name in family.architectures)
    if names:
        raise BadConfig(
            f"{hub.folder / 'config.json'} has architectures {names}; {wanted} is needed: load the model as one and "
            "save it"
        )
    part: Part = "seq2seq" if any(hub.plain(name).startswith("decoder.") for name in hub.names) else "encoder"
    for family in families:
        if family.part == part:
            notes.append(f"config.json names no class; by its tensors the model is {_article(part)}")
            return family, False
    raise BadConfig(
        f"{hub.folder / 'config.json'} has no architectures, and the tensors beside it are {_article(part)}'s; add "
        f"architectures: {wanted} where that is what it is"
    )


def _article(part: Part) -> str:
    return "an encoder-decoder" if part == "seq2seq" else "an encoder"


def _beside(folder: Path) -> dict[str, object]:
    """What our export kept beside the weights; nothing where the folder is not of our making."""
    path = folder / BESIDE
    if not path.is_file():
        return {}
    try:
        beside = files.read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        beside = None
    if not isinstance(beside, dict):
        raise BadCheckpoint(f"{path} is damaged; restore it, or remove it to import the matrices as they are")
    return beside


def _read_for_another(family: Family, config: ModelConfig, hub: HubTensors, notes: list[str]) -> None:
    """Where a matrix is stored under another of its names alone, that one is read for it."""
    copies = [(original, copy) for copy, original in family.copies(config, True).items()]
    for lacking, there in (*copies, *family.otherwise(config).items()):
        if hub.plain(lacking) not in hub.names and hub.plain(there) in hub.names:
            hub.stand_in(lacking, there)
            notes.append(f"{lacking} is not in the files; {there} is read for it")


def _tied_again(config: ModelConfig, tying: object, hub: HubTensors, notes: list[str]) -> ModelConfig:
    """config.json cannot say that decoder and head are one; our metadata does, if the two are still equal."""
    if config.tying != "untied" or tying != "tied_to_decoder":
        return config
    if hub.same("model.decoder.embed_tokens.weight", "lm_head.weight"):
        return dataclasses.replace(config, tying="tied_to_decoder")
    notes.append(
        f"the decoder's embedding and the head were one when {BESIDE} was written and differ now; they stay apart "
        "(tying: untied)"
    )
    return config


def _has_whole_head(family: Family, config: ModelConfig, hub: HubTensors, notes: list[str]) -> bool:
    """Whether the files hold all of a head that their class does not have."""
    head = _head(family, config, hub)
    there = sorted(head & hub.names)
    if not there:
        return False
    planned = {hub.plain(entry.theirs) for entry in family.entries(config, True) if entry.ours is not None}
    if missing := sorted((head & planned) - hub.names):
        notes.append(f"a head without {missing[0]} is left behind: {', '.join(there)}")
        return False
    notes.append("config.json names no class with a head, the files hold one: it is read too")
    return True


def _head(family: Family, config: ModelConfig, hub: HubTensors) -> set[str]:
    """The tensors of the class with a head that the one without does not have, copies among them."""
    if not family.has_head:
        return set()
    with_head, without = (
        {*family.copies(config, head), *(entry.theirs for entry in family.entries(config, head))}
        for head in (True, False)
    )
    return {hub.plain(name) for name in with_head} - {hub.plain(name) for name in without}


def _check_names(family: Family, config: ModelConfig, head: bool, hub: HubTensors, notes: list[str]) -> None:
    copies = {hub.plain(name): original for name, original in family.copies(config, head).items()}
    planned = {hub.plain(entry.theirs) for entry in family.entries(config, head)}
    planned |= set() if head else _head(family, config, hub)  # said already
    beyond = sorted(hub.names - planned)
    for name in beyond:
        if name in copies:
            if not hub.same(name, copies[name]):
                raise BadConfig(
                    f"{hub.folder} has tie_word_embeddings true, but {name} and {copies[name]} differ; set it to false "
                    "in config.json if both are to be kept"
                )
        elif not name.startswith(tuple(family.dropped)):
            raise BadConfig(f"{hub.folder} has a tensor {name}, for which models here have no place")
    dropped = [name for name in beyond if name not in copies]
    if dropped:
        notes.append(f"not used here, left behind: {', '.join(dropped)}")


def _check_zeros(plan: list[Entry], hub: HubTensors) -> None:
    """Tensors that models here do not have must be zero."""
    for entry in plan:
        if entry.ours is None and entry.theirs in hub.names and not hub.zero(entry.theirs):
            raise BadConfig(
                f"{hub.folder}: {entry.theirs} of shape {hub.shape(entry.theirs)} is not zero, and models here have no "
                "such tensor; convert another model"
            )


def _check_shape(entry: Entry, hub: HubTensors) -> None:
    found, stored = hub.shape(entry.theirs), hub.stored(entry.theirs)
    if found != entry.shape:
        made = "" if hub.plain(stored) == hub.plain(entry.theirs) else f", made of {stored},"
        raise BadCheckpoint(f"{hub.folder}: {entry.theirs}{made} has shape {found}, its config.json says {entry.shape}")


def _reader(hub: HubTensors, entry: Entry) -> Callable[[], Tensor]:
    return lambda: hub.tensor(entry.theirs)[entry.leading :].contiguous()


def _fresh_head(config: ModelConfig) -> dict[str, Callable[[], Tensor]]:
    fresh = first_values(config, torch_seed(0, "convert", "mlm head"))
    return {name: partial(fresh, name) for name in parameter_shapes(config) if name.startswith("mlm.")}
