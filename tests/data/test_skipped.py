"""What is left out is counted by source and reason."""

from __future__ import annotations

from megas2s.data.skipped import Skipped, by_reason, said


def test_lines_are_counted_by_source_and_reason_the_most_frequent_first():
    lines = [Skipped("a.jsonl", "line", number, "no 'src'") for number in (9, 4)]
    others = [Skipped("b.parquet", "row", 1, "no 'src'")]
    found = by_reason([*others, *lines])
    assert [(reason.source, reason.rows, reason.first, reason.numbers) for reason in found] == [
        ("a.jsonl", 2, 4, [4, 9]),
        ("b.parquet", 1, 1, [1]),
    ]
    assert [said(reason) for reason in found] == [
        "2 lines of a.jsonl left out: no 'src' (first: line 4)",
        "1 row of b.parquet left out: no 'src' (first: row 1)",
    ]
