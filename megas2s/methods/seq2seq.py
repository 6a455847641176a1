"""Read a text and write another with a decoder, as in pretraining: translations, questions, summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from megas2s.data.records import Record
from megas2s.methods.base import Columns, Facts, Fixed, row_of
from megas2s.methods.writing import Writing, check_smoothing, forced, target_of
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part
from megas2s.objectives.noise import teacher_forced
from megas2s.spec import spec


@spec
class Seq2Seq(Fixed, Writing):
    """The text of `data.columns.label`, given that of `data.columns.text`."""

    name: Literal["seq2seq"] = "seq2seq"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """The encoder-decoder itself."""
        if not config.is_seq2seq:
            raise ValueError("method seq2seq writes with a decoder, and these weights are an encoder's")
        return config.without_heads()

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """Source and target, each cut to its length."""
        source, _ = row_of(record, columns, facts)
        labels = target_of(record, columns, facts)
        return {
            "input_ids": source,
            "decoder_input_ids": teacher_forced(labels, facts.start),
            "labels": labels,
            **forced(facts),
        }

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Cross-entropy of the target."""
        assert output.decoder_hidden is not None, "`shaped` refuses an encoder"
        assert output.decoder_vocabulary_loss is not None, "an encoder-decoder has a head"
        return self.parts(output.decoder_vocabulary_loss, output.decoder_hidden, batch["labels"])
