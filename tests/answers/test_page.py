"""The pages: every text whole and escaped, nothing fetched, directions by the letters, the worst first."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from megas2s.answers import markdown, page
from megas2s.answers.reading import Row, groups
from megas2s.answers.report import BINS, Metric, Report, Score, evenly, spread

TRICKS = '<script>alert("1")</script> & <b>bold</b> | *star* `code` [link](http://x.y) "quoted"'
ROWS = [
    Row(1, "en", "the cat sat", "the cat sat down", TRICKS),
    Row(2, "ar", "ذهب الولد", "ذهب الولد إلى المدرسة", None),
    Row(3, "en", TRICKS, "plain words", None),
    Row(4, "en", "", "something\nbelow", None),
]
VOID = {"meta", "br", "input"}


@pytest.fixture
def report() -> Report:
    names, parts = ("rouge1", "bleu"), groups(ROWS)
    values = {"rouge1": np.array([0.9, 0.5, 0.1, 0.0]), "bleu": np.array([80.0, 20.0, 3.0, 0.0])}
    tops = {"rouge1": 1.0, "bleu": 100.0}
    return Report(
        title="runs/<x>/answers/test.jsonl",
        rows=ROWS,
        groups=parts,
        metrics=tuple(Metric(name, tops[name], f"{name}|<signed>", values[name]) for name in names),
        scores={
            group: {
                name: Score(
                    float(values[name][places].mean()), 0.0, tops[name], spread(values[name][places], tops[name])
                )
                for name in names
            }
            for group, places in parts.items()
        },
        seed=0,
        resamples=1000,
        notes=("1 of 4 answers are empty",),
    )


class Reader(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text of each definition."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[dict, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "dd":
            self.texts.append((dict(attributes), ""))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "dd" in self.open:
            attributes, before = self.texts[-1]
            self.texts[-1] = (attributes, before + data)


def test_the_page_shows_every_text_as_it_is_in_the_direction_of_its_letters(report):
    found = Reader(page.page(report, 100))
    assert found.open == []
    expected = []
    for row in (ROWS[3], ROWS[2], ROWS[1], ROWS[0]):  # from the worst to the best by the first metric
        expected += ([row.source] if row.source else []) + [row.reference, row.answer or "nothing"]
    assert [text for _, text in found.texts] == expected
    assert all(attributes["dir"] == "auto" for attributes, _ in found.texts)


def test_the_page_needs_nothing_else_and_runs_nothing_of_its_texts(report):
    found = Reader(page.page(report, 100))
    assert not [name for _, attributes in found.elements for name in attributes if name in ("src", "href")]
    assert [tag for tag, _ in found.elements].count("script") == 1
    (policy,) = [made["content"] for tag, made in found.elements if made.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert not {"link", "img", "iframe", "b bold"} & {tag for tag, _ in found.elements}


def test_rows_carry_what_they_are_sorted_and_filtered_by(report):
    found = Reader(page.page(report, 100))
    rows = [made for tag, made in found.elements if tag == "article"]
    assert [row["data-line"] for row in rows] == ["4", "3", "2", "1"]
    assert rows[-1]["data-scores"] == "0.9 80"
    assert {row["data-language"] for row in rows} == {"en", "ar"}
    assert {row["data-same"] for row in rows} == {"no"}
    options = [made.get("value") for tag, made in found.elements if tag == "option"]
    assert {"0", "1", "length", "line", "up", "down"} <= set(options)


def test_scores_have_their_interval_histogram_note_and_signature(report):
    text = page.page(report, 100)
    assert "<b>0.375</b><small>0.000 to 1.000</small>" in text
    assert "<b>20.0</b><small>0.0 to 100.0</small>" in text
    assert text.count("<svg") == 6
    assert "1 of 4 answers are empty" in text
    assert "rouge1|&lt;signed&gt;" in text
    assert "Intervals hold 95 % of 1,000 corpora" in text
    assert "<title>runs/&lt;x&gt;/answers/test.jsonl</title>" in text


def test_of_many_rows_every_nth_stands_for_its_neighbours(report):
    assert list(evenly(3, 5)) == [0, 1, 2]
    assert evenly(101, 5) == [0, 25, 50, 75, 100]
    assert evenly(7, 1) == [0]
    assert report.ranked(2) == [3, 1, 0]  # of each language the worst and the best
    shown = page.page(report, 2)
    assert shown.count("<article") == 3
    assert "4 answers in 2 languages. 3 of them stand below: of each language the worst, the best" in shown


def test_a_histogram_counts_every_segment():
    counts = spread(np.array([0.0, 0.5, 1.0, 1.0 + 1e-9]), 1.0)
    assert len(counts) == BINS
    assert (counts[0], counts[-1], sum(counts)) == (1, 2, 4)


def test_markdown_has_the_table_and_texts_that_nothing_is_taken_for_a_mark_of(report):
    text = markdown.page(report)
    assert "| all | 4 | 0.375 (0.000–1.000) | 25.8 (0.0–100.0) |" in text
    assert "- rouge1: `rouge1|<signed>`" in text
    assert '| answer | <div dir="auto">the cat sat</div> |' in text
    assert '| reference | <div dir="auto">the cat sat <del>down</del></div> |' in text
    assert "<del>something<br>below</del>" in text
    assert "<script>" not in text
    assert r"&amp; &lt;b&gt;bold&lt;/b&gt; \| \*star\* \`code\` \[link\](http://x.y)" in text
    assert text.index("**Line 4, en**") < text.index("**Line 2, ar**") < text.index("**Line 1, en**")
