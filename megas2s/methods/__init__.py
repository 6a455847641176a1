"""The list of methods: what a fine-tuning recipe's `method` may be, told apart by its `name`."""

from typing import Annotated

from pydantic import Discriminator

from megas2s.methods.classify import Classify, Regress
from megas2s.methods.one_row import Causal, Masked, PseudoMasked
from megas2s.methods.seq2seq import Seq2Seq
from megas2s.methods.tag import Tag

AnyMethod = Annotated[Classify | Regress | Tag | Seq2Seq | Causal | Masked | PseudoMasked, Discriminator("name")]

WRITERS = ("seq2seq", "causal", "masked", "pseudo_masked")  # methods whose answers are texts of the model's own
