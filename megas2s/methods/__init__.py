"""The list of methods: what a fine-tuning recipe's `method` may be, told apart by its `name`."""

from typing import Annotated

from pydantic import Discriminator

from megas2s.methods.classify import Classify, Regress
from megas2s.methods.seq2seq import Seq2Seq
from megas2s.methods.tag import Tag

AnyMethod = Annotated[Classify | Regress | Tag | Seq2Seq, Discriminator("name")]
