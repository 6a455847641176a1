"""Duplicates are found in bounded memory: in any number of parts and buckets the same ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data import dedup
from megas2s.data.dedup import mark_duplicates
from megas2s.data.tokenise import RECORD


@settings(max_examples=50, deadline=None)
@given(
    hashes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60),
    parts=st.integers(1, 7),
    bucket=st.integers(1, 9),
    shuffled=st.randoms(use_true_random=False),
)
def test_duplicates_are_found_in_any_number_of_parts_and_buckets(hashes, parts, bucket, shuffled, tmp_path_factory):
    records = np.zeros(len(hashes), RECORD)
    records["ordinal"] = np.arange(len(hashes))
    records["high"] = [high << 62 for high, _ in hashes]
    records["low"] = [low for _, low in hashes]
    first = {key: index for index, key in reversed(list(enumerate(hashes)))}
    expected = [first[key] != index for index, key in enumerate(hashes)]
    pieces = np.array_split(records, parts)
    shuffled.shuffle(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "BUCKET", bucket)
        patch.setattr(dedup, "BATCH", bucket)
        marks = mark_duplicates(pieces, documents=len(records), folder=tmp_path_factory.mktemp("dedup"))
    assert marks[records["ordinal"].astype(np.int64)].tolist() == expected
