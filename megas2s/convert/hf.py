"""What transformers itself says of our exports, and of the folders it saved. No other module here imports it.

Names and shapes are compared with the class that will load them, built without memory. Numbers are compared on a few
padded rows: our model and the reloaded one, one after the other, so that only one of them is in memory.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import transformers
from torch import Tensor

from megas2s import files
from megas2s.convert import FAMILIES, unilm
from megas2s.convert.names import Shape, decoder_start
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.labels import IGNORED
from megas2s.models.config import ModelConfig
from megas2s.models.loading import filled
from megas2s.models.parameters import parameter_shapes
from megas2s.rng import generator
from megas2s.spec import nearest
from megas2s.tokenizer.vocab import Vocabulary

TOLERANCE = 1e-4  # of logits in float32, absolute
TOKENIZER = "tokenizer_config.json"
LENGTHS = (48, 31, 9)  # of the compared rows
TARGET_LENGTHS = (17, 40, 28)


class Difference(NamedTuple):
    """The largest absolute differences between our model and the reloaded one, over real positions."""

    values: float  # logits, or states where there is no head
    loss: float | None  # of `model(labels=labels)`


def read_settings(folder: Path) -> dict[str, object]:
    """The content of a folder's config.json with the defaults of transformers filled in."""
    file = folder / "config.json"
    if not file.is_file():
        others = sorted(path.name for path in folder.glob("*config.json") if path.name != TOKENIZER)
        hint = f"rename {others[0]} to it" if len(others) == 1 else "give a folder that transformers saved"
        raise BadConfig(f"there is no {file}; {hint}")
    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    try:
        raw = files.read_json(file)
        own = unilm.is_own(raw)
        model_type = unilm.MODEL_TYPE if own else str(raw["model_type"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadConfig(
            f"{file} is no configuration of transformers: it has no model_type; add the one it is of: "
            + ", ".join(known)
        ) from None
    if model_type not in known:
        raise BadConfig(
            f"{file} has model_type {model_type!r}, which has no counterpart here; {nearest(model_type, known)}"
        )
    try:
        configuration: Any = transformers.AutoConfig
        config = configuration.for_model(**(unilm.as_bert(raw) if own else raw))
    except Exception as error:  # transformers and huggingface_hub raise kinds of their own
        reason = " ".join(str(error).split())
        raise BadConfig(f"{file} is refused by transformers: {reason}") from None
    settings: dict[str, object] = config.to_dict()
    return {**settings, "architectures": raw.get("architectures"), "model_type": model_type}


def compare_names(exported: Shape, settings: Mapping[str, object]) -> None:
    """Our plan against the class that will load it: no name or shape more or less."""
    configuration: Any = transformers.AutoConfig
    with torch.device("meta"):
        model = _class(exported)(configuration.for_model(**settings), **without_pooler(exported))
    tied = set(exported.family.copies(exported.config, exported.head))
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
    ours = {entry.theirs: entry.shape for entry in exported.entries}
    wrong = sorted({name for name, _ in theirs.items() ^ ours.items()})
    if wrong:
        raise RuntimeError(
            f"transformers {transformers.__version__} and the plan of {exported.architecture} differ in {wrong[:5]}"
        )


def require_memory(exported: Shape) -> None:
    """Refuse a comparison that this machine has no room for, before anything is written."""
    parameters = sum(math.prod(size) for size in parameter_shapes(exported.config).values())
    needed, free = int(parameters * 4 * 1.2), psutil.virtual_memory().available
    if needed > free:
        raise BadConfig(
            f"comparing this model with its export needs about {needed / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} are free; add --no-check to export without, or use a larger machine"
        )


def compare_numbers(
    exported: Shape, value: Callable[[str], Tensor], vocabulary: Vocabulary, folder: Path
) -> Difference:
    """Our model with the written values, `value(canonical name)`, against the folder reloaded, both in float32."""
    batch = sample_rows(exported.config, vocabulary)
    with torch.no_grad():
        ours, our_loss = _our_numbers(exported, value, batch)
        gc.collect()
        theirs, their_loss = _their_numbers(exported, folder, batch)
    gc.collect()
    if not bool(torch.isfinite(ours).all()):
        raise BadCheckpoint("the model gives values that are not finite; export an earlier checkpoint")
    difference = Difference(
        float((ours - theirs).abs().max()),
        None if our_loss is None or their_loss is None else float((our_loss - their_loss).abs()),
    )
    if not (difference.values <= TOLERANCE and (difference.loss or 0.0) <= TOLERANCE):
        raise BadCheckpoint(
            f"reloaded with transformers {transformers.__version__} the model differs from ours by "
            f"{difference.values:.1e}, more than {TOLERANCE:.0e}; it was not published, what was written is {folder}"
        )
    return difference


def sample_rows(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Rows of text ids that end in `</s>`, padded on the right, with their masks and labels; always the same."""
    rng = generator(0, "convert", "check")

    def padded(lengths: tuple[int, ...], filler: int) -> Tensor:
        rows = torch.full((len(lengths), min(config.max_positions, max(lengths))), filler)
        for row, length in zip(rows, lengths, strict=True):
            end = min(length, config.max_positions)
            row[:end] = torch.from_numpy(rng.choice(vocabulary.ordinary, end))
            row[end - 1] = vocabulary.eos
        return rows

    ids = padded(LENGTHS, vocabulary.pad)
    batch = {"input_ids": ids, "attention_mask": ids.ne(vocabulary.pad).long()}
    if not config.is_seq2seq:
        return {**batch, "labels": ids.masked_fill(ids.eq(vocabulary.pad), IGNORED)}
    labels = padded(TARGET_LENGTHS, IGNORED)
    start = torch.full((len(labels), 1), decoder_start(config, vocabulary))
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return {**batch, "labels": labels, "decoder_input_ids": shifted.masked_fill(shifted.eq(IGNORED), vocabulary.pad)}


def _our_numbers(
    exported: Shape, value: Callable[[str], Tensor], batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Logits at the labels and their mean loss; without a head the states at real tokens."""
    model = filled(exported.config, value, masked_head=exported.head)
    output = model(batch)
    if not exported.head:
        states: Tensor = output.encoder_hidden[batch["attention_mask"].bool()]
        return states, None
    hidden, loss = output.encoder_hidden, output.encoder_vocabulary_loss
    if exported.config.is_seq2seq:
        hidden, loss = output.decoder_hidden, output.decoder_vocabulary_loss
    labels = batch["labels"]
    real = labels.ne(IGNORED)
    total = loss(hidden.flatten(0, 1), labels.flatten()).total
    return model.logits(hidden[real]), total / real.sum()


def _their_numbers(exported: Shape, folder: Path, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    with _no_progress_bar():
        model, info = _class(exported).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **without_pooler(exported)
        )
    left = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]
    if left:
        raise RuntimeError(f"transformers {transformers.__version__} did not load {left[:5]}")
    model.eval()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if not exported.head:
        return model(**inputs).last_hidden_state[batch["attention_mask"].bool()], None
    output = model(**inputs, labels=batch["labels"])
    return output.logits[batch["labels"].ne(IGNORED)], output.loss


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A bar over a few files says nothing here."""
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _class(exported: Shape) -> Any:
    return getattr(transformers, exported.architecture)


def without_pooler(exported: Shape) -> dict[str, bool]:
    """Some classes without a head add a pooler, which none of our models has."""
    takes = inspect.signature(_class(exported).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}
