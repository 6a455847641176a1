"""What a state counts is on the disk: documents, the files that hold them, and the folders of those."""

from __future__ import annotations

from collections import Counter

import numpy as np

from megas2s.data.inputs import InputFile, Inputs
from megas2s.data.staging import Staging
from megas2s.data.tokenise import RECORD, Tokenised

IDS = np.dtype(np.uint16)


def add_file(staging: Staging, language: str) -> None:
    """Stage one document as an input file of its own."""
    name = f"{language}.txt"
    tokens, records = np.arange(3, dtype=IDS), np.zeros(1, RECORD)
    staging.add("train", "text", Tokenised(None, {language: tokens}, {language: records}, 1, 3, Counter()))
    inputs = Inputs(paths=(name,))
    facts = {"format": "txt", "compression": "", "language": language, "bytes": 3, "shard": 0}
    staging.finish_file(InputFile(name=name, inputs=inputs, **facts))


def test_what_a_state_counts_survives_a_power_cut(tmp_path, unflushed):
    with Staging(tmp_path / "new" / "corpus", {}, IDS) as staging:
        for language in ("en", "sw", "en"):
            add_file(staging, language)
            staging.commit()
            assert sum(documents for documents, _ in staging.groups.values()) == staging.documents
            assert unflushed(tmp_path) == {"new/corpus/.staging/lock"}  # what locks is not its content
