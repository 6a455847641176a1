"""The side-by-side page as Markdown: scores, then a few segments of each language from the worst to the best."""

from __future__ import annotations

import html
import re

from megas2s.answers.differences import Part, differences
from megas2s.answers.report import Report

EACH = 9  # segments of a language
LONGEST = 600  # characters of a source


def page(report: Report) -> str:
    """The page; what an answer has over its reference is underlined, what it lacks is struck out."""
    names = [metric.name for metric in report.metrics]
    lines = [
        f"# {_plain(report.title)}",
        "",
        f"| | segments | {' | '.join(names)} |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for group, places in report.groups.items():
        cells = []
        for metric in report.metrics:
            value, low, high, _ = report.scores[group][metric.name]
            cells.append(f"{metric.shown(value)} ({metric.shown(low)}–{metric.shown(high)})")
        lines.append(f"| {_plain(group)} | {len(places):,} | {' | '.join(cells)} |")
    lines += ["", report.caption(), ""]
    lines += [f"- {metric.name}: `{metric.signature}`" for metric in report.metrics]
    lines += [f"- note: {_plain(note)}" for note in report.notes]
    lines += ["", f"## From the worst to the best by {names[0]}"]
    for place in report.ranked(EACH):
        row = report.rows[place]
        answer, reference = differences(row.answer, row.reference)
        scores = ", ".join(f"{metric.name} {metric.shown(metric.segments[place])}" for metric in report.metrics)
        lines += ["", f"**Line {row.line}, {_plain(row.language)}**: {scores}", "", "| | |", "|---|---|"]
        if row.source is not None:
            source = row.source if len(row.source) <= LONGEST else row.source[:LONGEST] + " …"
            lines.append(f"| source | {_block(_plain(source))} |")
        lines.append(f"| reference | {_block(_marked(reference, 'del'))} |")
        lines.append(f"| answer | {_block(_marked(answer, 'ins'))} |")
    return "\n".join(lines) + "\n"


def _marked(parts: list[Part], tag: str) -> str:
    return "".join(f"<{tag}>{_plain(part.text)}</{tag}>" if part.differs else _plain(part.text) for part in parts)


def _block(text: str) -> str:
    return f'<div dir="auto">{text}</div>'


def _plain(text: str) -> str:
    """Text of which nothing is taken for a mark: HTML's characters as entities, Markdown's behind a backslash."""
    safe = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))
    return safe.replace("\r", "").replace("\n", "<br>")
