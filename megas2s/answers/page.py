"""The side-by-side page: one HTML file that needs nothing else, to sort, filter and read.

Every text is escaped and stands in the direction that its own letters ask for (`dir="auto"`), and the page forbids
itself to load anything.
"""

from __future__ import annotations

import html

from megas2s.answers.differences import Part, differences
from megas2s.answers.look import SCRIPT, STYLE
from megas2s.answers.report import Metric, Report, Score

BAR, HEIGHT = 6, 20  # pixels of the small histograms
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(report: Report, limit: int) -> str:
    """The page, with at most `limit` segments of each language."""
    places = report.ranked(limit)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(report.title)}</h1>
<p>{_sentence(report, len(places))}</p>
<div class="scores">{_table(report)}</div>
{_fine_print(report)}
{_tools(report)}
<main id="rows">
{"".join(_row(report, place) for place in places)}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _sentence(report: Report, shown: int) -> str:
    count, languages = len(report.rows), max(1, len(report.groups) - 1)
    of = f" in {languages} languages" if languages > 1 else ""
    some = (
        ""
        if shown == count
        else f" {shown:,} of them stand below: of each language the worst, the best and, by "
        f"{report.metrics[0].name}, as many between them as far apart as can be."
    )
    marks = "What an answer has over its reference is <ins>marked so</ins>, what it lacks <del>so</del>."
    return f"{count:,} answers{of}.{some} {marks}"


def _table(report: Report) -> str:
    head = "".join(f"<th>{metric.name}</th>" for metric in report.metrics)
    body = []
    for group, places in report.groups.items():
        cells = "".join(_cell(metric, report.scores[group][metric.name]) for metric in report.metrics)
        body.append(f"<tr><th>{html.escape(group)}</th><td>{len(places):,}</td>{cells}</tr>\n")
    return f"<table><thead><tr><th></th><th>answers</th>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody></table>"


def _cell(metric: Metric, score: Score) -> str:
    highest = max(1, *score.spread)
    bars = "".join(
        f'<rect x="{place * BAR}" y="{HEIGHT - tall}" width="{BAR - 1}" height="{tall}"/>'
        for place, count in enumerate(score.spread)
        if (tall := -(-count * HEIGHT // highest))
    )
    said = f"answers by their own {metric.name}, from 0 to {metric.top:g}"
    drawing = f'<svg width="{len(score.spread) * BAR}" height="{HEIGHT}" role="img"><title>{said}</title>{bars}</svg>'
    span = f"{metric.shown(score.low)} to {metric.shown(score.high)}"
    return f"<td><b>{metric.shown(score.value)}</b><small>{span}</small>{drawing}</td>"


def _fine_print(report: Report) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    signatures = "".join(
        f"<li>{metric.name} <code>{html.escape(metric.signature)}</code></li>" for metric in report.metrics
    )
    return (
        f"{f'<ul>{notes}</ul>' if notes else ''}\n<details><summary>Signatures and intervals</summary>\n"
        f"<p>{html.escape(report.caption())} Under each score: how many answers have which score of their own.</p>\n"
        f"<ul>{signatures}</ul></details>"
    )


def _tools(report: Report) -> str:
    by = "".join(f'<option value="{place}">{metric.name}</option>' for place, metric in enumerate(report.metrics))
    languages = [group for group in report.groups if group != "all"]
    names = "".join(f"<option>{html.escape(name)}</option>" for name in languages)
    language = f'<select name="language"><option value="">all languages</option>{names}</select>' if languages else ""
    return f"""<form id="tools" hidden>
<label>by <select name="by">{by}<option value="length">length of the answer</option>
<option value="line">line of the file</option></select></label>
<select name="down"><option value="up">lowest first</option><option value="down">highest first</option></select>
{language}
<label><input type="checkbox" name="differing"> only unlike their reference</label>
<input type="search" name="words" placeholder="with these words">
<output name="count"></output>
</form>"""


def _row(report: Report, place: int) -> str:
    row = report.rows[place]
    answer, reference = differences(row.answer, row.reference)
    values = [float(metric.segments[place]) for metric in report.metrics]
    scores = "".join(
        f'<span class="score" style="--share:{min(1.0, value / metric.top):.3f}">{metric.name} '
        f"<b>{metric.shown(value)}</b></span>"
        for metric, value in zip(report.metrics, values, strict=True)
    )
    texts = [] if row.source is None else [_text("source", "source", html.escape(row.source))]
    texts += [
        _text("reference", "reference", _marked(reference, "del")),
        _text("answer", "answer", _marked(answer, "ins")),
    ]
    same = "yes" if row.answer.strip() == row.reference.strip() else "no"
    return (
        f'<article data-line="{row.line}" data-language="{html.escape(row.language)}" data-same="{same}" '
        f'data-length="{len(row.answer)}" data-scores="{" ".join(f"{value:.6g}" for value in values)}">\n'
        f'<header class="row"><span>line {row.line}</span><span>{html.escape(row.language)}</span>{scores}</header>\n'
        f"<dl>{''.join(texts)}</dl>\n</article>\n"
    )


def _text(name: str, kind: str, escaped: str) -> str:
    return f'<dt>{name}</dt><dd class="{kind}" dir="auto">{escaped or "<i>nothing</i>"}</dd>'


def _marked(parts: list[Part], tag: str) -> str:
    return "".join(
        f"<{tag}>{html.escape(part.text)}</{tag}>" if part.differs else html.escape(part.text) for part in parts
    )
