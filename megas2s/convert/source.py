"""Which weights a folder means, and what lies around them: the tokenizer, the recipe, the corpus.

    runs/x                                       the last complete stage of a run
    runs/x/mlm                                   a complete stage
    runs/x/mlm/checkpoints/step_00000100         a checkpoint of any engine
    any folder of weights                        model.json and safetensors

Files are read as the plain YAML and JSON they are; this room knows nothing of training.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megas2s import files
from megas2s.convert.importing import Incoming
from megas2s.data.corpus import MARKER, TOKENIZER, Corpus
from megas2s.errors import BadCheckpoint, BadConfig, BadData, Refusal
from megas2s.models.config import ModelConfig
from megas2s.models.weights import MODEL, WeightsReader, open_weights
from megas2s.spec import read_yaml
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.trimming import trimmed

RECIPE, STATE = "recipe.yaml", "state.json"
WEIGHTS, CHECKPOINTS = "weights", "checkpoints"
SETTINGS = "config.json"  # what a Hugging Face folder has, and ours have not


class Source(NamedTuple):
    """A folder of weights and the run that it belongs to, where there is one."""

    folder: Path  # holds model.json
    published: Path  # the folder with the manifest: the same, or the checkpoint around it
    run: Path | None
    stage: str | None
    step: int | None  # of a checkpoint; None for the weights a stage ended with

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The run's recipe as plain data."""
        return None if self.run is None else read_recipe(self.run)

    @property
    def corpus_folder(self) -> Path | None:
        """Where the recipe says the corpus is; it may have moved."""
        recipe = self.recipe
        return None if recipe is None or not recipe.get("corpus") else Path(recipe["corpus"])

    @property
    def corpus(self) -> Corpus | None:
        """The corpus, where it is still in its place."""
        folder = self.corpus_folder
        if folder is None or not (folder / MARKER).is_file():
            return None
        try:
            return Corpus.open(folder)
        except Refusal:
            return None  # a corpus that is being rebuilt; weights do not depend on it

    def open(self) -> WeightsReader:
        """Check the weights against their manifest, and open them."""
        below = "" if self.folder == self.published else f"{WEIGHTS}/"
        files.verify(self.published, below=below)
        return open_weights(self.folder)


def find(path: Path) -> Source:
    """What `path` means; raises BadConfig where it means nothing and BadCheckpoint where it is not finished."""
    if not path.is_dir():
        raise BadConfig(f"there is no folder {path}; give a run, a stage, a checkpoint or a folder of weights")
    path = path.resolve() if path.name in ("", ".", "..") else path
    if (path / RECIPE).is_file():
        return _of_run(path)
    if (path / STATE).is_file():
        return _of_checkpoint(path)
    if (path / MODEL).is_file():
        return _of_checkpoint(path.parent) if (path.parent / STATE).is_file() else _of_weights(path)
    if (path / WEIGHTS).is_dir() or (path / CHECKPOINTS).is_dir():
        return _of_stage(path)
    if (path / SETTINGS).is_file():
        raise BadConfig(f"{path} is a Hugging Face model; import it with tools/convert_from_hf.py and give its weights")
    raise BadConfig(
        f"{path} is no run ({RECIPE}), stage ({WEIGHTS}/), checkpoint ({STATE}) or folder of weights ({MODEL})"
    )


def read_recipe(run: Path) -> dict[str, Any]:
    """The resolved recipe of a run."""
    try:
        recipe = read_yaml((run / RECIPE).read_text(encoding="utf-8"), source=RECIPE)
        stages = (
            [str(stage["name"]) for stage in recipe["stages"]] if "stages" in recipe else [recipe["method"]["name"]]
        )
    except (BadConfig, UnicodeDecodeError, KeyError, TypeError):
        raise BadCheckpoint(
            f"{run / RECIPE} is damaged; give a stage of the run instead, or restore the file"
        ) from None
    return {**recipe, "stage_names": stages}


def find_tokenizer(source: Source, reader: WeightsReader, given: Path | None) -> Stored:
    """The tokenizer of some weights: `given`, or the run's copy, or the corpus'. Checked against the weights."""
    corpus = source.corpus_folder
    around = [source.folder / TOKENIZER]
    around += [source.run / TOKENIZER] if source.run is not None else []
    around += [corpus / TOKENIZER] if corpus is not None else []
    folders = [given] if given is not None else [folder for folder in around if folder.is_dir()]
    if not folders:
        looked = ", ".join(str(folder) for folder in around)
        raise BadConfig(f"the tokenizer of {source.folder} was not found in {looked}; name it: tokenizer=FOLDER")
    stored = read_tokenizer(folders[0])
    fingerprint = reader.metadata.get("tokenizer")
    if fingerprint is not None and fingerprint != stored.fingerprint:
        raise BadData(
            f"the tokenizer {folders[0]} (fingerprint {stored.fingerprint[:12]}) is not the one these weights were "
            f"trained with ({fingerprint[:12]}); name that one: tokenizer=FOLDER"
        )
    check_vocabulary(stored, folders[0], reader.config)
    return stored


def read_tokenizer(folder: Path) -> Stored:
    """The tokenizer in a folder, our own or one that transformers saved."""
    if (folder / tokenizer_folder.METADATA).is_file():
        return tokenizer_folder.read(folder)
    if not folder.exists():
        raise BadData(f"there is no tokenizer at {folder}")
    return import_tokenizer(folder)


def check_vocabulary(stored: Stored, folder: Path, config: ModelConfig) -> None:
    """Refuse a tokenizer whose ids do not fit a model's embedding table."""
    tokenizer = stored.metadata
    if tokenizer.size > config.vocab_size or tokenizer.pad != config.pad_id:
        raise BadData(
            f"the tokenizer {folder} has {tokenizer.size} ids and pad {tokenizer.pad}, the model {config.vocab_size} "
            f"and pad {config.pad_id}; they do not belong together"
        )


def fitting(stored: Stored, folder: Path, config: ModelConfig) -> tuple[Stored, list[str]]:
    """The tokenizer as a model's embedding table has room for it, and what a person should know of that."""
    rows = config.vocab_size
    cut = trimmed(stored, rows) if stored.metadata.size > rows else None
    if cut is None:
        check_vocabulary(stored, folder, config)
        return stored, []
    check_vocabulary(cut.tokenizer, folder, config)
    names = ", ".join(cut.lost)
    return cut.tokenizer, [f"the model's table has {rows} rows and none for {names}; the tokenizer goes on without"]


def padded(found: Incoming, stored: Stored) -> Incoming:
    """A model that computes the same whichever id pads rows, with the tokenizer's.

    MiniLM's multilingual models are BERT, with its pad_token_id 0, and read with XLM-R's tokenizer, which pads with 1.
    """
    config, pad = found.config, stored.metadata.pad
    if not found.any_pad or pad == config.pad_id or pad >= config.vocab_size:
        return found
    note = (
        f"config.json has pad_token_id {config.pad_id} and the tokenizer pads with {pad}: so do rows here, and nothing "
        "that the model computes depends on it"
    )
    return found._replace(config=dataclasses.replace(config, pad_id=pad), notes=[*found.notes, note])


def check_special_tokens(stored: Stored, folder: Path, settings: Mapping[str, object]) -> None:
    """Refuse a tokenizer whose special tokens, padding apart, are not those that a model's config.json names."""
    tokenizer = stored.metadata
    for role, ours in {"eos": tokenizer.eos, "bos": tokenizer.bos}.items():
        theirs = settings.get(f"{role}_token_id")
        if isinstance(theirs, int) and ours is not None and theirs != ours:
            raise BadData(
                f"the tokenizer {folder} has {role} {ours}, its model's config.json {role}_token_id {theirs}; they do "
                "not belong together, bring the tokenizer that the model was trained with"
            )


def hashes(source: Source, reader: WeightsReader, tokenizer: Stored) -> dict[str, str]:
    """What an export is made of, by its SHA-256: weights, tokenizer and recipe; the corpus by its digest."""
    manifest = files.read_manifest(source.published)["files"]
    below = "" if source.folder == source.published else f"{WEIGHTS}/"
    listed = sorted(f"{name} {facts['sha256']}\n" for name, facts in manifest.items() if name.startswith(below))
    found = {"weights": hashlib.sha256("".join(listed).encode()).hexdigest(), "tokenizer": tokenizer.fingerprint}
    if source.run is not None:
        found["recipe"] = files.hash_file(source.run / RECIPE)
    if "corpus" in reader.metadata:
        found["corpus digest"] = reader.metadata["corpus"]
    return found


def _of_run(run: Path) -> Source:
    stages = read_recipe(run)["stage_names"]
    complete = [stage for stage in stages if files.is_published(run / stage / WEIGHTS)]
    if not complete:
        raise BadCheckpoint(f"no stage of {run} is complete; {_checkpoints_hint([run / stage for stage in stages])}")
    return _of_stage(run / complete[-1])


def _of_stage(folder: Path) -> Source:
    if not files.is_published(folder / WEIGHTS):
        raise BadCheckpoint(f"the stage {folder} is not complete; {_checkpoints_hint([folder])}")
    return _of_weights(folder / WEIGHTS)


def _of_weights(folder: Path) -> Source:
    stage = folder.parent if folder.name == WEIGHTS else None
    run = stage.parent if stage is not None and (stage.parent / RECIPE).is_file() else None
    return Source(folder, folder, run, stage.name if stage is not None and run is not None else None, None)


def _of_checkpoint(folder: Path) -> Source:
    if not files.is_published(folder):
        raise BadCheckpoint(f"the checkpoint {folder} was never finished; give another one")
    stage = folder.parent.parent
    run = stage.parent if (stage.parent / RECIPE).is_file() else None
    try:
        step = int(files.read_json(folder / STATE)["state"]["step"])
    except (ValueError, KeyError, TypeError):
        raise BadCheckpoint(f"{folder / STATE} is damaged; give another checkpoint or restore it from a copy") from None
    return Source(folder / WEIGHTS, folder, run, stage.name if run is not None else None, step)


def _checkpoints_hint(stages: Sequence[Path]) -> str:
    for stage in reversed(stages):
        found = sorted(
            (folder for folder in (stage / CHECKPOINTS).glob("step_*") if files.is_published(folder)),
            key=lambda folder: int(folder.name.removeprefix("step_")),
        )
        if found:
            return f"its newest checkpoint is {found[-1]}, give that or let the training end"
    return "it has no checkpoint yet either; let the training go on"
