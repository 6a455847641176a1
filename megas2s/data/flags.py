"""The flags that say what text to read and how, alike in every tool that reads some. Imports nothing heavy."""

from __future__ import annotations

import argparse

_READING = ("text_column", "language_column", "documents", "invalid_utf8", "longest_document")  # as `Inputs` has them
_SCREENING = ("near_duplicates", "evaluation", "identify", "language_model", "spoken", "spoken_digits")  # `Screening`
_DATASET = ("dataset", "dataset_config", "dataset_split", "dataset_revision")


def add_dataset_flags(group: argparse._ArgumentGroup) -> None:
    """Name a Hugging Face dataset."""
    add = group.add_argument
    add("--dataset", help="name of a Hugging Face dataset, or a folder that holds one")
    add("--dataset-config", help="its configuration")
    add("--dataset-split", default="train", help="its split")
    add("--dataset-revision", help="its revision on the hub; give one for results that last")


def add_reading_flags(group: argparse._ArgumentGroup) -> None:
    """Say where text and language stand, and what is refused."""
    add = group.add_argument
    add("--text-column", default="text", help="field or column that holds the text")
    add("--language-column", "--lang-column", help="field or column that holds the language")
    add("--lang", help="language of all input; otherwise from a column or from the names of files and folders")
    add("--documents", choices=("lines", "paragraphs"), default="lines", help="of .txt: a line, or up to a blank line")
    add("--invalid-utf8", choices=("refuse", "drop"), default="refuse", help="stop at it, or drop and count")
    add("--longest-document", type=int, default=1 << 24, metavar="BYTES", help="refuse longer ones")


def add_screening_flags(group: argparse._ArgumentGroup) -> None:
    """Say which documents are dropped for what they say, and in which form the others are kept."""
    add = group.add_argument
    add(
        "--near-duplicates",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="drop what shares so much of its runs of"
        " five words with an earlier document, 0.8 for example (needs megas2s[near])",
    )
    add(
        "--evaluation",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="drop what has 13 words in a row with a text of these files",
    )
    add(
        "--identify",
        type=float,
        default=0.0,
        metavar="SURENESS",
        help="drop what is in another language than it is"
        " said to be, with this probability, 0.8 for example (needs megas2s[identify])",
    )
    add("--language-model", metavar="FILE", help="a fastText model that knows languages (default: one of 176, small)")
    add(
        "--spoken",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of documents, without capitals and punctuation, as they are spoken",
    )
    add(
        "--spoken-digits",
        choices=("kept", "spelled"),
        default="kept",
        help="in those, digits or words (needs megas2s[spoken])",
    )


def screening(given: argparse.Namespace) -> dict[str, object]:
    """The fields of `Screening` that `add_screening_flags` gives."""
    return {field: getattr(given, field) for field in _SCREENING}


def reading(given: argparse.Namespace) -> dict[str, object]:
    """The fields of `Inputs` that `add_reading_flags` gives."""
    return {"language": given.lang, **{field: getattr(given, field) for field in _READING}}


def dataset(given: argparse.Namespace) -> dict[str, object]:
    """The fields of `Inputs` that `add_dataset_flags` gives."""
    return {field: getattr(given, field) for field in _DATASET}
