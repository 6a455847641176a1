"""What is analysed: weights, the tokenizer that they know, and the corpus of their run where there is one.

runs/x, runs/x/mlm, .../checkpoints/step_00000100, a folder of weights      as `convert.source` finds them
a Hugging Face folder, or its name on the hub                               read as an import would, nothing written
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from megas2s import hub
from megas2s.convert import hf, source
from megas2s.convert.importing import incoming
from megas2s.data.corpus import Corpus
from megas2s.models.config import ModelConfig
from megas2s.tokenizer.folder import Stored


class Subject(NamedTuple):
    """Weights that are checked and ready to be read."""

    name: str  # of the folder that its analyses go to, unless another is named
    beside: Path  # the folder of analyses is made here
    folder: Path  # where the weights lie
    facts: dict[str, str]  # what these weights are: stage, step, hashes
    config: ModelConfig
    value: Callable[[str], Tensor]  # canonical name -> tensor, in the dtype that it is stored in
    metadata: dict[str, str]
    tokenizer: Stored
    corpus: Corpus | None
    notes: list[str]  # what a person should know, one sentence each


def find(name: str, tokenizer: Path | None) -> Subject:
    """What `name` means; `tokenizer` is its folder where it is not found beside. Refuses what is not whole."""
    folder = hub.folder_of(name, [*hub.WEIGHTS, *hub.TOKENIZER])
    if (folder / source.SETTINGS).is_file():
        return _theirs(name, folder, tokenizer)
    return _ours(folder, tokenizer)


def _ours(path: Path, tokenizer: Path | None) -> Subject:
    found = source.find(path)
    reader = found.open()
    stored = source.find_tokenizer(found, reader, tokenizer)
    facts = source.hashes(found, reader, stored)
    if found.run is not None and found.stage is not None:
        home = found.run.resolve()
        parts = [home.name, found.stage, *([found.published.name] if found.step is not None else [])]
        facts["stage"] = found.stage
    else:
        home = found.published.parent if found.published.name == source.WEIGHTS else found.published
        parts = [home.name]
    if found.step is not None:
        facts["step"] = str(found.step)
    return Subject(
        name="-".join(parts),
        beside=home.parent,
        folder=found.folder,
        facts=facts,
        config=reader.config,
        value=reader.tensor,
        metadata=reader.metadata,
        tokenizer=stored,
        corpus=found.corpus,
        notes=[],
    )


def _theirs(name: str, folder: Path, tokenizer: Path | None) -> Subject:
    settings = hf.read_settings(folder)
    found = incoming(folder, settings)
    stored = source.read_tokenizer(tokenizer or folder)
    found = source.padded(found, stored)
    source.check_vocabulary(stored, tokenizer or folder, found.config)
    source.check_special_tokens(stored, tokenizer or folder, settings)
    local = Path(name).exists()
    return Subject(
        name=folder.resolve().name if local else name.replace("/", "-"),
        beside=folder.resolve().parent if local else Path(),
        folder=folder,
        facts={"model_type": str(settings["model_type"]), "tokenizer": stored.fingerprint},
        config=found.config,
        value=lambda tensor: found.sources[tensor](),
        metadata={**found.metadata, "tokenizer": stored.fingerprint},
        tokenizer=stored,
        corpus=None,
        notes=found.notes,
    )
