"""Evaluation from files to scores and pages, and the script's refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from megas2s import files
from megas2s.errors import BadConfig
from megas2s.evaluate import Request, evaluate, plan, write

PAIRS = {
    "en": [
        ("The cat sat on the mat today.", "The cat sat on the mat."),
        ("No dogs are here.", "There are no dogs here."),
    ],
    "zh": [("今天天气很好", "今天天气不好"), ("我去了学校", "我去了学校")],
}


@pytest.fixture
def answers(tmp_path) -> Path:
    """Two answers in each of two languages, as a run leaves them."""
    lines = [
        {"language": language, "source": f"about {answer}", "answer": answer, "reference": reference}
        for language, pairs in PAIRS.items()
        for answer, reference in pairs
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "test.jsonl"


def test_every_language_has_its_scores_and_all_have_theirs(answers):
    report = evaluate(Request(answers, bleu_tokenizer="zh"))
    assert report.groups == {"all": [0, 1, 2, 3], "en": [0, 1], "zh": [2, 3]}
    for group, pairs in {**PAIRS, "all": [*PAIRS["en"], *PAIRS["zh"]]}.items():
        given, wanted = map(list, zip(*pairs, strict=True))
        score = report.scores[group]["bleu"]
        assert score.value == pytest.approx(BLEU(tokenize="zh").corpus_score(given, [wanted]).score)
        assert score.low <= score.value <= score.high
    assert report.scores["zh"]["rouge1"].value == pytest.approx((5 / 6 + 1) / 2)
    assert report.scores["zh"]["rouge1"].low == pytest.approx(5 / 6)
    assert report.scores["zh"]["exact_match"].value == 0.5
    assert report.notes == ()


def test_bleu_of_words_is_not_taken_for_that_of_a_script_without_spaces(answers):
    said = "zh is written without spaces, where BLEU's tokenizer 13a takes phrases for words; say --bleu-tokenizer char"
    assert [note.startswith(said) for note in evaluate(Request(answers, resamples=5)).notes] == [True]
    assert evaluate(Request(answers, metrics=["chrf"], resamples=5)).notes == ()


def test_what_is_written_can_be_read_again_and_is_the_same_each_time(answers, tmp_path):
    request = Request(answers, resamples=50)
    for name in ("one", "two"):
        write(evaluate(request), tmp_path / name, rows=request.rows)
    found = files.read_json(tmp_path / "one" / "scores.json")
    assert found["segments"] == {"all": 4, "en": 2, "zh": 2}
    assert found["scores"]["en"]["chrf"].keys() == {"score", "low", "high"}
    assert found["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert found["intervals"] == {"confidence": 0.95, "resamples": 50, "seed": 0}
    for name in ("scores.json", "page.html", "page.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_plan_reads_everything_and_names_what_it_would_do(answers):
    said = plan(Request(answers, metrics=["rouge", "gleu"]))
    assert said == "would score 4 answers by rouge1, rouge2, rougeL, gleu\n  2 answers in en\n  2 answers in zh"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["rogue"]}, "there is no metric 'rogue'; did you mean 'rouge'"),
        ({"metrics": ["errant"]}, r"errant knows English alone, and line 3 of .*test.jsonl is zh"),
        ({"bleu_tokenizer": "zhh"}, "no tokenizer of BLEU called 'zhh'; did you mean 'zh'"),
        ({"resamples": 0}, "--resamples must be at least 1, got 0"),
        ({"rows": 0}, "--rows must be at least 1, got 0"),
        ({"metrics": ["m2"]}, r"m2_f0.5 compares with gold edits; give an .m2 file of them with --references"),
        (
            {"references": Path("gold.m2"), "sources": Path("a.txt")},
            "gold.m2 holds the sources, too; leave out --sources a",
        ),
        ({"drop_repeats": 7}, r"--drop-repeats must lie in \[0, 1\], got 7"),
    ],
)
def test_what_cannot_be_scored_is_refused(answers, changes, said):
    with pytest.raises(BadConfig, match=said):
        plan(Request(answers, **changes))


def test_the_script_shows_a_table_and_ends_with_the_code_of_what_it_refuses(answers, script, tmp_path):
    path = "launch/evaluate.py"
    shown = script(path, answers, "--metrics", "rouge", "chrf", "--resamples", 20, "--output", tmp_path / "out")
    assert shown.returncode == 0, shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines() if line[:1].strip()][:3] == [
        ["all", "4"],
        ["en", "2"],
        ["zh", "2"],
    ]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"scores.json", "page.html", "page.md"}
    (tmp_path / "short.txt").write_text("one\n")
    for flags, code, said in (
        (["--metrics", "blue"], 2, "error: there is no metric 'blue'; did you mean 'bleu'?"),
        (["--references", tmp_path / "short.txt"], 3, "test.jsonl has 4 lines and "),
    ):
        refused = script(path, answers, *flags)
        assert refused.returncode == code
        assert said in refused.stdout
        assert "Traceback" not in refused.stdout


def test_the_script_reads_gold_edits_and_names_the_line_that_is_none(script, tmp_path):
    rest = "REQUIRED|||-NONE-|||"
    gold = (
        f"S He go to school the .\nA 1 2|||SVA|||goes|||{rest}0\nA 4 5|||Det||||||{rest}0\n\n"
        f"S The dog .\nA 1 2|||Nn|||dogs|||{rest}0\nA -1 -1|||noop|||-NONE-|||{rest}1\n"
    )
    (tmp_path / "gold.m2").write_text(gold)
    (tmp_path / "answers.txt").write_text("He goes to the school .\nThe dog .\n")
    flags = ["--references", tmp_path / "gold.m2", "--resamples", 20]
    call = ["launch/evaluate.py", tmp_path / "answers.txt", *flags, "--metrics", "m2"]
    shown = script(*call, "gleu", "--output", tmp_path / "out")
    assert shown.returncode == 0, shown.stdout
    assert "note: 1 of 2 sentences have several annotators" in shown.stdout
    found = files.read_json(tmp_path / "out" / "scores.json")["scores"]["all"]
    assert list(found) == ["m2_f0.5", "m2_precision", "m2_recall", "gleu"]
    # "goes" is right, and "the" left out behind "school"; "the" put before it is not.
    assert found["m2_precision"]["score"] == pytest.approx(2 / 3)
    assert found["m2_recall"] == {"score": 1.0, "low": 1.0, "high": 1.0}
    assert found["m2_f0.5"]["score"] == pytest.approx(1.25 * 2 / 3 / (0.25 * 2 / 3 + 1))
    assert found["m2_f0.5"]["low"] == found["m2_f0.5"]["score"] < found["m2_f0.5"]["high"] == 1.0

    (tmp_path / "gold.m2").write_text(gold.replace("A 4 5", "A 4 15"))
    for flag in ("--dry-run", "--resamples=20"):
        refused = script(*call, flag)
        assert refused.returncode == 3
        said = "gold.m2, line 3: words 4 to 15 are no part of the sentence, which has 6; repair the span"
        assert said in refused.stdout
        assert "Traceback" not in refused.stdout
