"""What is dropped for what it says: evaluation text, other languages, near-duplicates; and quotas of sources."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from megas2s import files
from megas2s.data import dedup, near
from megas2s.data.contamination import Contamination, evaluation_files, write_grams
from megas2s.data.identify import Identifier
from megas2s.data.inputs import Inputs
from megas2s.data.preprocess import Choices
from megas2s.data.screen import Screening
from megas2s.data.signatures import Signer
from megas2s.data.words import shingles
from megas2s.errors import BadConfig, BadData

from .byte_corpus import make, texts

WORDS = [f"word{number}" for number in range(2000)]


def sentence(draw, length):
    return " ".join(draw.choices(WORDS, k=length))


def dropped(corpus, language="en"):
    return corpus.record["languages"][language]["dropped"]


def test_documents_with_thirteen_words_of_an_evaluation_text_go(tmp_path):
    draw = random.Random(1)
    quoted = sentence(draw, 40).split()
    thirteen, twelve = quoted[5:18], quoted[20:32]
    clean = [sentence(draw, 50) for _ in range(20)]
    tainted = [f"Before; {' '.join(thirteen).upper()}. After!", f"{sentence(draw, 30)} {' '.join(quoted)}"]
    (tmp_path / "en.txt").write_text("\n".join([*clean, " ".join(twelve), *tainted]))
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "test.jsonl").write_text(json.dumps({"id": 3, "options": [{"text": " ".join(quoted)}]}) + "\n")
    corpus = make(
        [Inputs(paths=(str(tmp_path / "en.txt"),))],
        tmp_path / "out",
        choices=Choices(held_out=0, screening=Screening(evaluation=(str(evaluation),))),
    )
    assert texts(corpus) == [*clean, " ".join(twelve)]
    assert dropped(corpus) == {"evaluation text": 2}


def test_evaluation_text_is_read_from_every_format(tmp_path):
    draw = random.Random(2)
    found = {name: sentence(draw, 13) for name in ("a.txt", "b.jsonl.gz", "c.csv", "d.parquet")}
    (tmp_path / "a.txt").write_text(found["a.txt"])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps([found["b.jsonl.gz"]]))
    (tmp_path / "c.csv").write_text(f'id,text\n1,"{found["c.csv"]}"\n')
    pa.parquet.write_table(pa.table({"n": [1], "text": [found["d.parquet"]]}), tmp_path / "d.parquet")
    read = evaluation_files([str(tmp_path)])
    assert [file.name for file in read] == sorted(found)
    assert write_grams(read, tmp_path / "grams.npy") == 4
    contamination = Contamination(tmp_path / "grams.npy")
    assert all(contamination.taints(f"x {text} y") for text in found.values())
    assert not contamination.taints(sentence(draw, 500))


def test_runs_of_evaluation_text_survive_a_power_cut_and_damage_is_said(unflushed, tmp_path):
    staging = tmp_path / "corpus" / ".staging"
    files.make_folder(staging)
    (tmp_path / "test.txt").write_text(sentence(random.Random(2), 30))
    write_grams([tmp_path / "test.txt"], staging / "grams.npy")
    assert unflushed(tmp_path / "corpus") == set()
    (staging / "grams.npy").write_bytes((staging / "grams.npy").read_bytes()[:-8])
    with pytest.raises(BadData, match=rf"grams\.npy is damaged; remove {tmp_path}/corpus and start again"):
        Contamination(staging / "grams.npy")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "{"), ("a.parquet", "text"), ("a.txt.gz", "text")])
def test_damaged_evaluation_files_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadData, match=f"{name} cannot be read"):
        write_grams(evaluation_files([str(tmp_path)]), tmp_path / "grams.npy")


def test_a_name_without_evaluation_files_is_refused(tmp_path):
    (tmp_path / "a.doc").write_text("text")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "a.doc"):
        with pytest.raises(BadData, match="no evaluation file here"):
            evaluation_files([str(path)])


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, caplog):
    for name in ("a.txt", *(f"{number}.xml" for number in range(7)), "b.jsonl.bz2"):
        (tmp_path / name).write_text("text")
    with caplog.at_level("INFO"):
        assert [path.name for path in evaluation_files([str(tmp_path)])] == ["a.txt"]
    assert caplog.messages == [
        f"{tmp_path}: files that are not read as evaluation text: 8 (0.xml, 1.xml, 2.xml, 3.xml, 4.xml, ...)"
    ]


def test_evaluation_text_is_found_however_it_is_composed(tmp_path):
    text = " ".join(f"été{number} ﬁn" for number in range(7))
    (tmp_path / "test.txt").write_text(unicodedata.normalize("NFD", text))
    write_grams([tmp_path / "test.txt"], tmp_path / "grams.npy")
    for form in ("NFC", "NFD", "NFKC"):
        assert Contamination(tmp_path / "grams.npy").taints(unicodedata.normalize(form, text))


def test_other_evaluation_files_are_other_arguments(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("one text")
    choices = Choices(held_out=0, screening=Screening(evaluation=(str(tmp_path / "test.txt"),)))
    inputs = [Inputs(paths=(str(tmp_path / "en.txt"),))]
    make(inputs, tmp_path / "out", choices=choices)
    make(inputs, tmp_path / "out", choices=choices)
    (tmp_path / "test.txt").write_text("another text")
    with pytest.raises(BadConfig, match="evaluation"):
        make(inputs, tmp_path / "out", choices=choices)


ENGLISH = "The committee met in the morning and decided to postpone the vote until the following week."
GERMAN = "Der Ausschuss tagte am Morgen und beschloss, die Abstimmung auf die nächste Woche zu verschieben."


def test_documents_in_another_language_go_and_doubtful_ones_stay(tmp_path):
    (tmp_path / "en.txt").write_text(f"{ENGLISH}\n{GERMAN}\nok\n")
    (tmp_path / "xx").mkdir()
    inputs = [Inputs(paths=(f"en={tmp_path}/en.txt",))]
    corpus = make(inputs, tmp_path / "out", choices=Choices(held_out=0, screening=Screening(identify=0.8)))
    assert texts(corpus) == [ENGLISH, "ok"]
    assert dropped(corpus) == {"other language": 1}


def test_languages_are_compared_as_far_as_the_model_tells_them_apart():
    identifier = Identifier()
    assert identifier.contradicts(GERMAN, "en", 0.8)
    assert not identifier.contradicts(GERMAN, "de_AT", 0.8)
    assert not identifier.contradicts(GERMAN, "deu_Latn", 0.8)
    assert not identifier.contradicts(GERMAN, "qaa", 0.8)  # a language that the model has never heard of
    assert not identifier.contradicts("Komiteen møttes om morgenen og utsatte avstemningen.", "nb", 0.5)


def test_no_model_of_languages_or_a_damaged_one_is_refused(tmp_path):
    with pytest.raises(BadConfig, match="there is no model of languages"):
        Identifier(str(tmp_path / "absent.bin"))
    (tmp_path / "model.bin").write_text("no model")
    with pytest.raises(BadConfig, match="cannot be read as a fastText model"):
        Identifier(str(tmp_path / "model.bin"))


def families(draw):
    """Texts and, for each, the number of its family: any two share about 0.9 of their runs of five words, or 0.95."""
    made = []
    for family in range(60):
        words = sentence(draw, 200).split()
        made.append((family, " ".join(words)))
        for _ in range(draw.choice([0, 0, 1, 3])):
            variant = list(words)
            variant[draw.randrange(200)] = "changed"
            made.append((family, " ".join(variant)))
    draw.shuffle(made)
    return made


def likeness(left, right):
    a, b = set(shingles(left, 5).tolist()), set(shingles(right, 5).tolist())
    return len(a & b) / len(a | b)


def test_of_documents_that_are_alike_the_first_stays(tmp_path):
    made = families(random.Random(3))
    assert all(likeness(made[0][1], text) >= 0.8 for family, text in made if family == made[0][0])
    half = sentence(random.Random(4), 200)
    made += [(100, half), (101, " ".join([*half.split()[:120], *sentence(random.Random(5), 80).split()]))]
    (tmp_path / "en.txt").write_text("\n".join(text for _, text in made))
    inputs = [Inputs(paths=(str(tmp_path / "en.txt"),))]
    corpus = make(inputs, tmp_path / "out", choices=Choices(held_out=0, screening=Screening(near_duplicates=0.8)))
    expected = [text for place, (family, text) in enumerate(made) if family not in [f for f, _ in made[:place]]]
    assert 60 < len(expected) < len(made) - 20
    assert texts(corpus) == expected
    assert dropped(corpus) == {"near duplicate": len(made) - len(expected)}


def test_near_duplicates_are_the_same_in_small_buckets_and_pieces(tmp_path, monkeypatch):
    made = families(random.Random(6))
    for number in range(4):
        (tmp_path / f"en-{number}.txt").write_text("\n".join(text for _, text in made[number::4]))
    choices = Choices(held_out=0.1, screening=Screening(near_duplicates=0.8))
    inputs = [Inputs(paths=(f"{tmp_path}/*.txt",))]
    whole = make(inputs, tmp_path / "out", choices=choices)
    for module in (dedup, near):
        monkeypatch.setattr(module, "BUCKET", 20)
    parted = make(inputs, tmp_path / "parted", choices=choices, piece_size=3000, workers=2)
    assert parted.digest == whole.digest
    assert dropped(whole)["near duplicate"] > 10


def test_texts_without_words_are_not_alike(tmp_path):
    (tmp_path / "en.txt").write_text("!!!\n???\n...\n")
    choices = Choices(held_out=0, screening=Screening(near_duplicates=0.8))
    assert texts(make(tmp_path / "en.txt", tmp_path / "out", choices=choices)) == ["!!!", "???", "..."]


def test_the_estimate_of_likeness_is_close_to_the_share_of_common_runs():
    signer, draw = Signer(), random.Random(7)
    errors = []
    for changes in (0, 1, 5, 15, 40):
        words = sentence(draw, 300).split()
        other = list(words)
        for place in draw.sample(range(300), changes):
            other[place] = "changed"
        pair = " ".join(words), " ".join(other)
        errors.append((signer(pair[0]) == signer(pair[1])).mean() - likeness(*pair))
    assert np.abs(errors).max() < 0.12  # three standard deviations of 128 draws


def sources(folder):
    folder.mkdir()
    draw = random.Random(8)
    for name in ("en", "fr"):
        (folder / f"{name}.txt").write_text("\n".join(sentence(draw, 20) for _ in range(400)))
    return [Inputs(paths=(f"{folder}/en.txt", f"{folder}/fr.txt"), source="web")]


def tokens(corpus, language):
    return corpus.record["languages"][language]["tokens"]


def test_a_quota_takes_a_sample_of_a_source_and_a_larger_one_more_of_it(tmp_path):
    inputs = sources(tmp_path / "in")
    whole = make(inputs, tmp_path / "whole")
    found = {}
    for most in (10_000, 30_000):
        choices = Choices(deduplicate=False, held_out=0, quotas={"web": most, "web/fr": 4_000})
        found[most] = make(inputs, tmp_path / f"{most}", choices=choices)
        total = sum(tokens(found[most], language) for language in ("en", "fr"))
        assert tokens(found[most], "fr") <= 4_000
        # Half of the quota is English; of the two quotas of French the tighter one holds.
        assert total == pytest.approx(most / 2 + 4_000, rel=0.15)
        assert dropped(found[most])["beyond the quota"] == 400 - len(texts(found[most], language="en"))
    small, large = (texts(found[most], language="en") for most in found)
    assert set(small) < set(large) < set(texts(whole, language="en"))


def test_a_quota_leaves_held_out_documents_alone(tmp_path):
    inputs = sources(tmp_path / "in")
    free = make(inputs, tmp_path / "free", choices=Choices(held_out=0.1))
    bound = make(inputs, tmp_path / "bound", choices=Choices(held_out=0.1, quotas={"web": 10_000}))
    assert texts(bound, "heldout") == texts(free, "heldout")
    assert set(texts(bound)) < set(texts(free))


def test_a_quota_of_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"quota 'wbe' is of no source; the input has web"):
        make(sources(tmp_path / "in"), tmp_path / "out", choices=Choices(quotas={"wbe": 5}))
    with pytest.raises(ValueError, match="a quota is SOURCE=TOKENS"):
        Choices(quotas={"web": 0})
    with pytest.raises(BadConfig, match=r"quota web/de is of no file; source web has en, fr"):
        make(sources(tmp_path / "more"), tmp_path / "out", choices=Choices(quotas={"web/de": 5}))


def test_a_quota_of_a_language_that_no_document_is_in_is_refused(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"text": "a", "lang": "en"}\n{"text": "b", "lang": "FR"}\n')
    inputs = [Inputs(paths=(f"{tmp_path}/all.jsonl",), language_column="lang")]
    with pytest.raises(BadData, match=r"quota text/de is of no document; source text has en, fr"):
        make(inputs, tmp_path / "out", choices=Choices(held_out=0, quotas={"text/de": 5}))
    corpus = make(inputs, tmp_path / "other", choices=Choices(held_out=0, quotas={"text/FR": 2, "text/EN": 100}))
    assert texts(corpus) == ["a", "b"]
    with pytest.raises(ValueError, match="quota text/en is given twice"):
        Choices(quotas={"text/EN": 1, "text/en": 2})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"language_model": "lid.bin"}, "language_model is given without identify"),
        ({"spoken_digits": "spelled"}, "spoken_digits is spelled, but no document is spoken"),
    ],
)
def test_a_wish_that_would_do_nothing_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        Screening(**asked)
