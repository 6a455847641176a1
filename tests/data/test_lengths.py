"""How long rows are, what is cut, and bars that hold every row once."""

from __future__ import annotations

import json

import pytest

from megas2s.data.lengths import measured


def test_what_is_said_of_rows_is_true():
    found = measured([5, 10, 100, 12, 3], 16)
    assert (found.rows, found.shortest, found.longest, found.mean) == (5, 3, 100, 26.0)
    assert (found.cut, found.most_lost) == (1, 84)
    assert found.said() == "3 to 100 tokens, 26.0 on average; 1 of 5 are cut to 16, by 84 tokens at most"
    assert measured([3, 16], 16).said() == "3 to 16 tokens, 9.5 on average; none is cut to 16"


@pytest.mark.parametrize(("lengths", "limit"), [([1, 2, 3], 3), ([1, 128, 129, 500], 128), ([7], 100), ([40, 41], 33)])
def test_every_row_is_in_one_bar(lengths, limit):
    found = measured(lengths, limit)
    assert sum(bar.rows for bar in found.bars) == len(lengths)
    assert found.bars[0].first == 1
    for one, other in zip(found.bars, found.bars[1:], strict=False):
        assert other.first == one.last + 1
    assert limit in {bar.last for bar in found.bars}, "what is cut has a bar of its own"


def test_bars_are_drawn_from_the_first_to_the_last_that_has_rows():
    drawn = measured([17] * 40 + [33] * 20 + [200], 128).drawn()
    assert drawn[:2] == [f"    17-32     {'#' * 40}  40", f"    33-48     {'#' * 20}  20"]
    assert drawn[-1] == "   129-200    #  1"
    assert len(drawn) == 8


def test_they_are_plain_data_for_a_file():
    found = json.loads(json.dumps(measured([2, 9], 8).plain()))
    assert found["bars"][0] == {"first": 1, "last": 1, "rows": 0}
    assert found["cut"] == 1
