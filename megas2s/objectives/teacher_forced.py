"""What objectives share whose loss is the cross-entropy of a row that the decoder writes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Part, Plain
from megas2s.objectives.losses import label_counts, vocabulary_part


class TeacherForced(Plain):
    """An encoder-decoder reads `input_ids` and writes `labels`, given the labels before each."""

    name: str

    @property
    def architecture(self) -> Literal["seq2seq"]:
        """An encoder-decoder."""
        return "seq2seq"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The target tokens of each row, special ones included."""
        return {self.name: label_counts(batch["labels"])}

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> dict[str, Part]:
        """Cross-entropy of the target."""
        assert output.decoder_hidden is not None, f"{self.name} trains an encoder-decoder"
        assert output.decoder_vocabulary_loss is not None, "an encoder-decoder has a head"
        part = vocabulary_part(output.decoder_vocabulary_loss, output.decoder_hidden, batch["labels"])
        return {self.name: part}
