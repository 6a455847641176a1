"""`launch/decode.py`: a file in, answers out in its order, the same from any number of ranks."""

from __future__ import annotations

import dataclasses
import json
import runpy

import pytest

from megas2s import files, generate
from megas2s.convert.export import export
from megas2s.convert.importing import GENERATION
from megas2s.convert.source import find, find_tokenizer
from megas2s.data.records import read_records
from megas2s.decoding.traces import Trace
from megas2s.errors import BadConfig, BadData
from megas2s.generate.program import Job, check, decode, notes, read
from megas2s.methods.base import Columns
from tests.generate.conftest import RECORDS, SIZES
from tests.processes import ROOT

SPOKEN = Columns(text="src", label="tgt", language="lang")


def answers(path):
    return [record for _, record in read_records(path)]


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_sources_and_references_stay_beside_their_answers(taught, lines, script, tmp_path):
    done = script("launch/decode.py", taught("pseudo_masked"), lines, tmp_path / "a.jsonl", "--beams", 3, "--n-best", 2)
    assert done.returncode == 0, done.stdout
    assert "3 sources" in done.stdout
    found = answers(tmp_path / "a.jsonl")
    assert [line["source"] for line in found] == [record["src"] for record in RECORDS]
    assert [line["reference"] for line in found] == [record["tgt"] for record in RECORDS]
    for line in found:
        assert [line["answer"], line["score"]] == list(line["answers"][0].values())
        assert line["answers"][0]["score"] >= line["answers"][1]["score"]
    again = script("launch/decode.py", taught("pseudo_masked"), lines, tmp_path / "a.txt", "--beams", 3, "--rows", 1)
    assert again.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "".join(" ".join(line["answer"].split()) + "\n" for line in found)


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_ranks_share_a_file(taught, lines, script, ranks, tmp_path):
    alone = script("launch/decode.py", taught("seq2seq"), lines, tmp_path / "one.jsonl", "--sample", "--seed", 3)
    assert alone.returncode == 0, alone.stdout
    both = ranks(2, "launch/decode.py", taught("seq2seq"), lines, tmp_path / "two.jsonl", "--sample", "--seed", 3)
    assert both.returncode == 0, both.stdout[-2000:]
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "two.jsonl"]


def test_traces_are_scored_anew_without_a_search(taught, lines, script, tmp_path):
    run, traces = taught("masked"), tmp_path / "traces.jsonl"
    flags = ["--beams", 4, "--length-penalty", 1.5]
    first = script("launch/decode.py", run, lines, tmp_path / "a.jsonl", *flags, "--traces", traces)
    assert first.returncode == 0, first.stdout
    assert set(answers(traces)[0]["trace"]) == set(Trace._fields)
    anew = script("launch/decode.py", run, traces, tmp_path / "b.jsonl", "--length-penalty", 1.5, "--rescore")
    assert anew.returncode == 0, anew.stdout
    assert [line["answer"] for line in answers(tmp_path / "b.jsonl")] == [
        line["answer"] for line in answers(tmp_path / "a.jsonl")
    ]
    other = script("launch/decode.py", run, traces, tmp_path / "c.jsonl", "--rescore")
    plain = script("launch/decode.py", run, lines, tmp_path / "d.jsonl", "--beams", 4)
    assert other.returncode == plain.returncode == 0
    for one, two in zip(answers(tmp_path / "c.jsonl"), answers(tmp_path / "d.jsonl"), strict=True):
        assert one["answer"] == two["answer"]
        assert one["score"] == pytest.approx(two["score"], abs=1e-4)


def test_lines_that_are_no_source_are_named_or_counted(taught, script, tmp_path):
    bad = tmp_path / "bad.jsonl"
    lines = [json.dumps({"src": "a"}), json.dumps({"text": "b"}), "no JSON", json.dumps({"src": ["▁nosuch"]})]
    bad.write_bytes("\n".join(lines).encode() + b"\n\xff\n" + json.dumps({"src": [50, 51]}).encode() + b"\n")
    done = script("launch/decode.py", taught("causal"), bad, tmp_path / "a.jsonl")
    assert done.returncode == 3, done.stdout
    assert "bad.jsonl, line 2: a record has no 'src'" in done.stdout
    assert not (tmp_path / "a.jsonl").exists()
    done = script("launch/decode.py", taught("causal"), bad, tmp_path / "a.jsonl", "--skip-bad-lines")
    assert done.returncode == 0, done.stdout
    for reason, line in (
        ("a record has no 'src'", 2),
        ("not a JSON object", 3),
        ("a piece that the tokenizer has not", 4),
        ("not UTF-8", 5),
    ):
        assert f"1 line of {bad} left out: {reason} (first: line {line})" in done.stdout
    tokenizer = generate.load(taught("causal")).facts.tokenizer
    assert [line["source"] for line in answers(tmp_path / "a.jsonl")] == ["a", tokenizer.decode([50, 51])]


def test_lines_that_are_left_out_are_counted_by_reason_before_anything_is_decoded(taught, tmp_path):
    model = generate.load(taught("causal"))
    path = written(tmp_path / "in.jsonl", {"src": "a"}, {"text": "b"}, {"src": 7}, {"text": "c"}, {"src": "d"})
    job = Job(path, tmp_path / "a.jsonl", model.columns, skip_bad_lines=True)
    assert notes(model, job, read(model, job)) == [
        f"2 sources of {path}, method causal",
        f"2 lines of {path} left out: a record has no 'src' (first: line 2)",
        f"1 line of {path} left out: 'src' is neither a text nor a list of pieces or ids (first: line 3)",
    ]
    written(path, {"text": "b"}, {"text": "c"})
    with pytest.raises(BadData, match=r"holds nothing to decode: 2 lines of .* left out: a record has no 'src'"):
        read(model, job)


def test_sources_that_are_too_long_are_cut_and_counted(taught, tmp_path):
    """The model reads rows of 24 tokens, and one is the end."""
    model = generate.load(taught("pseudo_masked"))
    ids = list(range(50, 80))
    sources = [ids[:23], ids[:24], ids[:1]]
    path = written(tmp_path / "in.jsonl", *({"src": source} for source in sources))
    job = Job(path, tmp_path / "a.jsonl", model.columns)
    found = read(model, job)
    assert found.cut == 1
    assert notes(model, job, found)[1:] == ["1 of them is cut to the 24 tokens that the model reads"]
    assert [len(example["input_ids"]) for example in found.examples] == [24, 24, 2]
    decode(model, job, generate.Decoding())
    lines = answers(job.output)
    assert lines[1]["source"] == model.facts.tokenizer.decode(ids[:24])
    assert lines[1]["answer"] == lines[0]["answer"] == model.write([ids[:23]])[0][0].text
    written(path, *({"src": ids[:size]} for size in (30, 24, 23)))
    assert notes(model, job, read(model, job))[1:] == ["2 of them are cut to the 24 tokens that the model reads"]


def test_a_column_says_the_language_of_each_source(taught, script, tmp_path):
    """An unknown one is a line that is no source, named or counted like others."""
    records = [{"src": "a tree", "lang": language} for language in ("en", "xx", "sw")]
    path, out, traces = written(tmp_path / "in.jsonl", *records), tmp_path / "a.jsonl", tmp_path / "t.jsonl"
    flags = [taught("pseudo_masked"), path, out, "--language-column", "lang", "--beams", 2, "--traces", traces]
    done = script("launch/decode.py", *flags)
    assert done.returncode == 3, done.stdout
    assert "in.jsonl, line 2: 'lang' of a record: the tokenizer has no tag for the language 'xx'; known" in done.stdout
    assert "Traceback" not in done.stdout
    assert not out.exists()
    done = script("launch/decode.py", *flags, "--skip-bad-lines")
    assert done.returncode == 0, done.stdout
    assert f"1 line of {path} left out: 'lang' names a language without a tag (first: line 2)" in done.stdout
    tags = generate.load(taught("pseudo_masked")).facts.vocabulary.languages
    assert [line["language"] for line in answers(out)] == ["en", "sw"]
    assert [line["trace"]["tokens"][0][0] for line in answers(traces)] == [tags["en"], tags["sw"]]
    same = script("launch/decode.py", *flags[:2], tmp_path / "b.jsonl", "--language", "sw", "--beams", 2)
    assert same.returncode == 0, same.stdout
    assert answers(out)[1] == {**answers(tmp_path / "b.jsonl")[1], "language": "sw"}


@pytest.fixture(scope="module")
def forcing(random_weights, corpus_folder, tmp_path_factory):
    """A Hugging Face folder that forces a first token, the tag of "ar", as mBART-50's many-to-one does."""
    folder = tmp_path_factory.mktemp("forcing")
    found = find(random_weights(folder / "weights", **SIZES, num_decoder_layers=1, init_std=0.3))
    reader = found.open()
    tokenizer = find_tokenizer(found, reader, corpus_folder / "tokenizer")
    export(reader, tokenizer, folder / "export")
    path = folder / "export" / GENERATION
    said = files.read_json(path) if path.is_file() else {}
    path.write_text(json.dumps({**said, "forced_bos_token_id": tokenizer.metadata.languages["ar"]}))
    return folder / "export"


@pytest.mark.parametrize("tags", [None, "source", "both"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_language_is_the_same_of_all_sources_and_of_each(forcing, tmp_path, beams, tags):
    """Its tag stands in place of what a folder forces, and does not come behind it."""
    model = generate.load(forcing, method="seq2seq", length=24, target_length=10)
    known = model.facts.vocabulary.languages
    assert model.forced[0] == known["ar"]
    assert {found[0].ids[0] for found in model.write(["a tree"])} == {known["ar"]}
    model = dataclasses.replace(model, tags=tags)
    path = written(tmp_path / "in.jsonl", *({**record, "lang": "en"} for record in RECORDS))
    columns = dataclasses.replace(SPOKEN, language=None)
    how = generate.Decoding(beams=beams)
    job = Job(path, tmp_path / "all.jsonl", columns, language="en")
    decode(model, job, dataclasses.replace(how, language="en"))
    job = Job(path, tmp_path / "each.jsonl", SPOKEN)
    decode(model, job, how)
    each = answers(tmp_path / "each.jsonl")
    assert [line.pop("language") for line in each] == ["en"] * 3
    assert each == answers(tmp_path / "all.jsonl")
    for _, found in model.answer(read(model, job).examples, range(3), how):
        first, second, *_ = found.answers[0].ids
        assert first == known["ar" if tags == "source" else "en"]
        assert second != known["en"]


def test_languages_that_are_said_twice_or_have_no_tags_are_refused(taught, lines, tmp_path, monkeypatch):
    model = generate.load(taught("causal"))
    job = Job(lines, tmp_path / "a.jsonl", SPOKEN, language="en")
    with pytest.raises(BadConfig, match="--language en and --language-column lang both say it; leave one out"):
        check(model, job, generate.Decoding())
    bare = dataclasses.replace(model.facts.vocabulary, languages={})
    monkeypatch.setattr(model.facts.tokenizer, "vocabulary", bare)
    with pytest.raises(BadConfig, match="--language-column lang: the tokenizer has no tag for any language; leave it"):
        check(model, job._replace(language=None), generate.Decoding())


def test_a_text_file_is_a_source_a_line_and_a_dry_run_writes_nothing(taught, script, tmp_path):
    (tmp_path / "in.txt").write_text("one\n" + "two three " * 20 + "\n")
    done = script("launch/decode.py", taught("causal"), tmp_path / "in.txt", tmp_path / "out.txt", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert f"2 sources of {tmp_path / 'in.txt'}, method causal" in done.stdout
    assert "1 of them is cut to the 24 tokens that the model reads" in done.stdout
    assert not (tmp_path / "out.txt").exists()
    assert script("launch/decode.py", taught("causal"), tmp_path / "in.txt", tmp_path / "out.txt").returncode == 0
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output-is", "x"], "unrecognized arguments"),
        (["--beams", 2, "--n-best", 3], "n_best 3 is more than beams 2 can give"),
        (["--beams", 2, "--scoring", "power", "--traces", "t.jsonl"], "a trace is of a beam search with gnmt scoring"),
        (["--beams", 2, "--traces", "t.txt"], "t.txt must end in .jsonl"),
        (["--max-length", 99], "max_length 99 exceeds the 16 positions"),
        (["--beams", 5, "--early-stopping", "never"], "early_stopping is of power scoring, and encoders write by gnmt"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_flags_that_cannot_be_are_refused_in_a_sentence(taught, lines, script, tmp_path, flags, said, dry):
    done = script("launch/decode.py", taught("causal"), lines, tmp_path / "a.jsonl", *flags, *dry)
    assert done.returncode == 2
    assert said in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--skip-bad-lines"], "--skip-bad-lines can change nothing"),
        (["--traces", "t.jsonl"], "--traces can change nothing"),
        (["--beams", 4, "--prefix", "so"], "of which --beams, --prefix can change nothing; leave it out"),
    ],
)
def test_flags_that_scoring_anew_has_no_use_for_are_refused(taught, lines, tmp_path, monkeypatch, flags, said):
    arguments = [taught("causal"), lines, tmp_path / "a.jsonl", "--rescore", *flags]
    monkeypatch.setattr("sys.argv", ["decode.py", *map(str, arguments)])
    with pytest.raises(BadConfig, match=said):
        runpy.run_path(str(ROOT / "launch" / "decode.py"))["main"]()
