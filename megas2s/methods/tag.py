"""A tag for every word: read at its first piece, as BERT's authors do (Devlin et al. 2019, section 5.3).

tokens      Nina      Chahine   ,
pieces      ▁N ina    ▁Cha hine ▁,    </s>
labels      PROPN -   PROPN -   PUNCT  -
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from megas2s.data.records import Record
from megas2s.errors import BadRecord
from megas2s.labels import IGNORED
from megas2s.methods.base import Columns, Facts, Fixed, heads_apart, joined, rows_of, states, value
from megas2s.metrics.scores import Scores, of_tags
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput, Reader
from megas2s.objectives.base import Batch, Example, Part, measure
from megas2s.objectives.losses import label_counts
from megas2s.spec import spec
from megas2s.tokenizer.load import Tokenizer


@spec
class Tag(Fixed):
    """Tags of the words that `data.columns.text` lists. Words beyond `length` are not scored."""

    name: Literal["tag"] = "tag"

    def texts(self, columns: Columns) -> Sequence[str]:
        """None: words are encoded one by one."""
        return ()

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """Its tags."""
        return _words(record, columns)[1]

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """A score for each tag at each token."""
        return dataclasses.replace(config.without_heads(), token_classes=len(labels))

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """The heads on the vocabulary."""
        return heads_apart(config)

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """The words in pieces, and each word's tag at its first piece."""
        words, tags = _words(record, columns)
        pieces = encode_words(words, facts.tokenizer)
        row, _ = joined([np.concatenate(pieces)], facts)
        first = np.cumsum([facts.vocabulary.ends - 1, *(len(piece) for piece in pieces[:-1])])
        kept = first < len(row) - 1
        marks = np.full(len(row), IGNORED)
        new = len(facts.labels)  # a tag that the training data has not: a place to answer, and nothing to learn
        marks[first[kept]] = np.array([facts.labels.index(tag) if tag in facts.labels else new for tag in tags])[kept]
        return {**rows_of(row, facts), "encoder_labels": marks}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The words of each row."""
        return {self.name: label_counts(batch["encoder_labels"])}

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Cross-entropy, and the share of right tags."""
        assert output.token_scores is not None, "`shaped` asks for this head"
        scores, labels = output.token_scores(states(output)).float(), batch["encoder_labels"]
        known = labels.masked_fill(labels >= scores.shape[-1], IGNORED)
        each = F.cross_entropy(scores.flatten(0, 1), known.flatten(), ignore_index=IGNORED, reduction="none")
        rows = each.view(labels.shape).sum(1)
        right = (scores.argmax(-1) == labels).sum(1).float()
        return {self.name: Part(rows.sum(), 1.0, rows.detach()), "accuracy": measure(right, label_counts(labels))}

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """The likeliest tag at every token, (B, length)."""
        output = model(batch)
        assert output.token_scores is not None, "`shaped` gives the model this head"
        best: Tensor = output.token_scores(states(output)).argmax(-1)
        return F.pad(best, (0, facts.length - best.shape[1]))

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The tags of the words that fit, by name."""
        rows = zip(predictions, examples, strict=True)
        return [[facts.labels[tag] for tag in row[_places(example)]] for row, example in rows]

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """With any tag for each word."""
        words = record.get(columns.text)
        return {**record, columns.label: [facts.labels[0]] * len(words) if isinstance(words, list) else []}

    def references(
        self, records: Sequence[Record], examples: Sequence[Example], columns: Columns, facts: Facts
    ) -> list[Any]:
        """The same words' own tags."""
        pairs = zip(records, examples, strict=True)
        return [_words(record, columns)[1][: len(_places(example))] for record, example in pairs]

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Accuracy over words, and F1 over spans where tags mark them."""
        return of_tags(answers, references)


def encode_words(words: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """The pieces of each word as they are in running text; a word that the tokenizer drops is the unknown one."""
    alone, twice = tokenizer.encode("a"), tokenizer.encode("a a")
    # Byte-level BPE writes the space before a word into its piece; the others put it there by themselves.
    space = "" if len(twice) == 2 * len(alone) and (twice[len(alone) :] == alone).all() else " "
    texts = [(space if number else "") + word for number, word in enumerate(words)]
    ids, offsets = tokenizer.encode_batch(texts)
    unknown = np.array([tokenizer.vocabulary.unk], dtype=ids.dtype)
    pieces = [ids[start:end] for start, end in itertools.pairwise(offsets)]
    return [piece if len(piece) else unknown for piece in pieces]


def _places(example: Example) -> np.ndarray:
    return np.flatnonzero(example["encoder_labels"] != IGNORED)


def _words(record: Record, columns: Columns) -> tuple[list[str], list[str]]:
    words, tags = value(record, columns.text), value(record, columns.label)
    for key, found in ((columns.text, words), (columns.label, tags)):
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            said = f"{key!r} of a record is {str(found)[:40]!r}; tagging needs a list of texts"
            raise BadRecord(said, f"{key!r} is no list of texts")
    if len(words) != len(tags) or not words:
        said = f"a record has {len(words)} words and {len(tags)} tags; each word needs one, and a record a word"
        raise BadRecord(said, "other than one tag a word, or no word")
    return words, tags
