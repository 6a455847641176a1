"""Read a text and write another, as in pretraining: translations, questions, summaries. Decoding is greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from megas2s.data.records import Record
from megas2s.generate.greedy import greedy
from megas2s.methods.base import Columns, Facts, joined, row_of, text_of
from megas2s.metrics.scores import Scores, of_texts
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput, Reader, Writer
from megas2s.objectives.base import Batch, Example, Part
from megas2s.objectives.losses import label_counts, vocabulary_part
from megas2s.objectives.noise import teacher_forced
from megas2s.spec import spec


@spec
class Seq2Seq:
    """The text of `data.columns.label`, given that of `data.columns.text`."""

    name: Literal["seq2seq"] = "seq2seq"

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """None."""
        return ()

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """The encoder-decoder itself."""
        if not config.is_seq2seq:
            raise ValueError("method seq2seq writes with a decoder, and these weights are an encoder's")
        return config.without_heads()

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """Source and target, each cut to its length."""
        source, _ = row_of(record, columns, facts)
        target = facts.tokenizer.encode(text_of(record, columns.label))
        labels, _ = joined([target], facts._replace(length=facts.target_length))
        return {
            "input_ids": source,
            "decoder_input_ids": teacher_forced(labels, facts.start),
            "labels": labels,
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The target tokens of each row."""
        return {self.name: label_counts(batch["labels"])}

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Cross-entropy of the target."""
        assert output.decoder_hidden is not None, "`shaped` refuses an encoder"
        assert output.decoder_vocabulary_loss is not None, "an encoder-decoder has a head"
        return {self.name: vocabulary_part(output.decoder_vocabulary_loss, output.decoder_hidden, batch["labels"])}

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """What the model writes, (B, target_length)."""
        assert isinstance(model, Writer), "`shaped` refuses an encoder"
        vocabulary = facts.vocabulary
        return greedy(
            model, batch, start=facts.start, eos=vocabulary.eos, pad=vocabulary.pad, length=facts.target_length
        )

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The text, without special tokens."""
        return [facts.tokenizer.decode(row) for row in predictions]

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """With nothing to be written."""
        return {**record, columns.label: ""}

    def references(self, records: Sequence[Record], examples: Sequence[Example], columns: Columns) -> list[Any]:
        """The text as it is in the data, whole."""
        return [text_of(record, columns.label) for record in records]

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """chrF and exact match."""
        return of_texts(answers, references)
