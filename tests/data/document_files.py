"""The same documents in every format, and what is read of them."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import zstandard

from megas2s.data.documents import read_documents
from megas2s.data.inputs import Inputs
from megas2s.spec import parse

TEXTS = ["one\nand two", "naïve „drei“", "四番目", "007", "NA", "null", 'a "quoted", thing']


def lines(path, texts, **more):
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


def texts_of(dropped=None, **settings):
    return [document.text for document in read_documents(parse(Inputs, settings, source="test"), dropped=dropped)]


def jsonl(folder):
    return lines(folder / "en.jsonl", TEXTS)


def jsonl_gz(folder):
    path = folder / "en.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(folder).read_bytes()))
    return path


def jsonl_zst(folder):
    path = folder / "en.jsonl.zst"
    content = jsonl(folder).read_bytes()
    frames = [zstandard.compress(content[:30]), zstandard.compress(content[30:])]
    path.write_bytes(b"".join(frames))
    return path


def a_parquet(folder):
    path = folder / "en.parquet"
    parquet.write_table(pa.table({"number": list(range(len(TEXTS))), "text": TEXTS}), path)
    return path


def a_csv(folder):
    path = folder / "en.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("text", "number"), *((text, index) for index, text in enumerate(TEXTS))])
    return path
