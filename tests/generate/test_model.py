"""Weights say how they were taught to write, and write the same wherever they are loaded from."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from megas2s import files, generate
from megas2s.convert.export import export
from megas2s.convert.importing import HEAD, RANDOM
from megas2s.convert.source import find, find_tokenizer
from megas2s.decoding.beam import Gnmt, Power
from megas2s.decoding.rules import Rules
from megas2s.errors import BadConfig, BadData
from megas2s.generate.settings import from_flags
from megas2s.models.weights import save_weights
from megas2s.train.checkpoint import step_folder
from tests.generate.conftest import METHODS, RECORDS, SIZES

TEXTS = [record["src"] for record in RECORDS]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_by_the_method_it_was_taught_by(taught, method):
    model = generate.load(taught(method))
    assert model.method.name == method
    assert (model.facts.length, model.facts.target_length) == (24, 10)
    found = model.write(TEXTS)
    assert len(found) == 3
    for answers in found:
        assert len(answers) == 1
        assert len(answers[0].ids) <= 10
        assert answers[0].score <= 0
    assert [answers[0].text for answers in found] == [model.write([text])[0][0].text for text in TEXTS]


@pytest.mark.parametrize("method", METHODS)
def test_greedy_is_the_likeliest_by_whole_passes(taught, method):
    """With the example's own source row, and no cache: what is read first and where masks stand is the method's."""
    model = generate.load(taught(method))
    vocabulary = model.facts.vocabulary
    for text, answers in zip(TEXTS, model.write(TEXTS), strict=True):
        source = {"input_ids": torch.from_numpy(model.example({"text": text})["input_ids"])[None]}
        ids: list[int] = []
        while len(ids) < 10 and (not ids or ids[-1] != vocabulary.eos):
            if method == "seq2seq":
                written = torch.tensor([[model.facts.start, *ids]])
                hidden = model.network({**source, "decoder_input_ids": written}).decoder_hidden
            elif method == "causal":
                hidden = model.network({**source, "target_ids": torch.tensor([[vocabulary.eos, *ids]])}).encoder_hidden
            else:
                written = torch.tensor([[*ids, vocabulary.mask]])
                hidden = model.network({**source, "target_ids": written}).encoder_hidden
            ids.append(int(model.network.logits(hidden[0, -1]).argmax()))
        assert list(answers[0].ids) == ids


@pytest.mark.parametrize("method", ["pseudo_masked", "seq2seq"])
def test_a_checkpoint_writes_by_its_own_weights_as_the_run_was_taught(taught, method):
    folder = step_folder(taught(method) / method, 1)
    ours, found = generate.load(taught(method)), generate.load(folder)
    assert (found.method, found.columns, found.tags) == (ours.method, ours.columns, ours.tags)
    assert (found.facts.length, found.facts.target_length) == (24, 10)
    reader, loaded = find(folder).open(), found.network.state_dict()
    assert all(torch.equal(loaded[name], reader.tensor(name)) for name in reader.names)
    scores = [[answers[0].score for answers in model.write(TEXTS)] for model in (ours, found)]
    assert all(one != other for one, other in zip(*scores, strict=True))  # of one step less


@pytest.mark.parametrize("method", ["pseudo_masked", "seq2seq"])
def test_an_exported_folder_writes_what_the_run_does(taught, method, tmp_path):
    found = find(taught(method))
    reader = found.open()
    export(reader, find_tokenizer(found, reader, None), tmp_path / "export")
    ours, theirs = generate.load(taught(method)), generate.load(tmp_path / "export")
    assert (theirs.method, theirs.facts.length, theirs.facts.target_length) == (ours.method, 24, 10)
    how = generate.Decoding(beams=3, n_best=2)
    assert ours.write(TEXTS, how) == theirs.write(TEXTS, how)


@pytest.mark.parametrize("method", ["masked", "seq2seq"])
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_batches_do_not_change_what_is_written(taught, method, rows):
    model = generate.load(taught(method))
    for how in (
        {"beams": 4, "n_best": 4, "min_length": 3, "no_repeat_ngram": 2},
        {"sample": True, "n_best": 2, "temperature": 1.5, "top_k": 50, "top_p": 0.9},
    ):
        expected = model.write(TEXTS, generate.Decoding(**how, rows=16))
        found = model.write(TEXTS, generate.Decoding(**how, rows=rows))
        assert [[one.ids for one in each] for each in found] == [[one.ids for one in each] for each in expected]


def test_answers_begin_as_they_are_told_to(taught):
    model = generate.load(taught("pseudo_masked"))
    for beams in (1, 3):
        for answers in model.write(TEXTS, generate.Decoding(beams=beams, prefix="das rote", language="en")):
            tag, *rest = answers[0].ids
            assert tag == model.facts.vocabulary.languages["en"]
            assert answers[0].text.startswith("das rote")
            assert (
                rest[: len(model.facts.tokenizer.encode("das rote"))]
                == model.facts.tokenizer.encode("das rote").tolist()
            )


def test_scoring_is_what_is_usual_for_the_method_unless_it_is_said():
    assert generate.Decoding(beams=5).search(is_seq2seq=False) == Gnmt(5, 0.0, 1)
    assert generate.Decoding(beams=5).search(is_seq2seq=True) == Power(5, 1.0, False, 1)
    assert generate.Decoding(beams=5, scoring="gnmt", length_penalty=0.9).search(is_seq2seq=True) == Gnmt(5, 0.9, 1)
    assert generate.Decoding().search(is_seq2seq=True) is None


def test_words_whose_ngrams_may_return_are_their_tokens(taught):
    model = generate.load(taught("causal"))
    how = generate.Decoding(no_repeat_ngram=3, ignored_words=(".",))
    rules = how.rules(model.method, model.facts, math.inf)
    pieces = {model.facts.tokenizer.piece(token).strip("▁") for token in rules.ignored}
    assert pieces == {"."}
    assert isinstance(rules, Rules)
    with pytest.raises(BadConfig, match=r"is \d+ tokens of this tokenizer; name single tokens"):
        generate.Decoding(ignored_words=("qzqzq xwxw",)).rules(model.method, model.facts, math.inf)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"beams": 0}, "beams must be at least 1"),
        ({"beams": 2, "n_best": 3}, "n_best 3 is more than beams 2"),
        ({"beams": 2, "sample": True}, "exclude each other"),
        ({"temperature": 0.5}, "temperature is of sampling, which is off"),
        ({"sample": True, "top_p": 0.0}, r"top_p in \(0, 1\]"),
        ({"length_penalty": 1.0}, "are of beams, and beams is 1"),
        ({"beams": 2, "scoring": "gnmt", "early_stopping": True}, "early_stopping is of power scoring"),
        ({"min_length": 5, "max_length": 5}, "max_length must be above min_length"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags, said):
    with pytest.raises(BadConfig, match=said):
        from_flags(flags)


def test_what_a_model_cannot_write_is_refused(taught):
    model = generate.load(taught("pseudo_masked"))
    for how, said in (
        ({"max_length": 17}, "max_length 17 exceeds the 16 positions that the model has for what it writes"),
        ({"min_length": 10}, "min_length 10 leaves no room below the 10 tokens of an answer"),
        ({"language": "xx"}, "the tokenizer has no tag for the language 'xx'"),
        ({"prefix": "word " * 20}, "an answer has room for 10"),
        ({"beams": 5, "early_stopping": True}, "early_stopping is of power scoring, and encoders write by gnmt"),
        ({"beams": 5, "early_stopping": "never"}, "say scoring: power, or leave early_stopping out"),
    ):
        with pytest.raises(BadConfig, match=said):
            model.write(TEXTS, generate.Decoding(**how))
    with pytest.raises(BadData, match="has the id 999999"):
        model.write([[999999]])


def test_weights_that_nobody_taught_to_write_are_refused(random_weights, corpus_folder, tmp_path, taught):
    tokenizer = corpus_folder / "tokenizer"
    encoder = random_weights(tmp_path / "encoder", **SIZES)
    with pytest.raises(BadConfig, match=r"never taught to write .*; fine-tune them first"):
        generate.load(encoder, tokenizer=tokenizer)
    with pytest.raises(BadConfig, match="fine-tune them first"):
        generate.load(encoder, tokenizer=tokenizer, method="seq2seq")
    pair = random_weights(tmp_path / "pair", **SIZES, num_decoder_layers=1)
    with pytest.raises(BadConfig, match="say method: seq2seq if it was elsewhere"):
        generate.load(pair, tokenizer=tokenizer)
    assert generate.load(pair, tokenizer=tokenizer, method="seq2seq", length=20, target_length=5).write(["a"])
    with pytest.raises(BadConfig, match="length 99 exceeds the 40 positions that the model has"):
        generate.load(pair, tokenizer=tokenizer, method="seq2seq", length=99)
    with pytest.raises(BadConfig, match="was taught by method causal, not masked"):
        generate.load(taught("causal"), method="masked")
    with pytest.raises(BadConfig, match="method 'tag' writes nothing"):
        generate.load(pair, tokenizer=tokenizer, method="tag")


@pytest.mark.parametrize("tags", ["source", "target", "both"])
def test_rows_that_were_tagged_are_tagged_again(tags, taught):
    """By the language that is said of them; without one nothing is written."""
    model = dataclasses.replace(generate.load(taught("pseudo_masked")), tags=tags)
    english = model.facts.vocabulary.languages["en"]
    with pytest.raises(BadConfig, match=rf"rows were tagged with their language \({tags}\) in training; name it"):
        model.write(TEXTS)
    example = model.example({"text": "a tree"}, language="en")
    assert (example["input_ids"][0] == english) == (tags != "target")
    answer = model.write(["a tree"], generate.Decoding(language="en", beams=2))[0][0]
    assert (answer.ids[0] == english) or tags == "source"
    with pytest.raises(BadConfig, match="the tokenizer has no tag for the language 'xx'"):
        model.write(TEXTS, generate.Decoding(language="xx"))


def test_a_head_that_nobody_trained_writes_nothing(taught, tmp_path, random_weights, corpus_folder):
    found = find(taught("masked"))
    reader = found.open()
    temporary = files.empty_temporary(tmp_path / "w")
    tensors = ((name, reader.tensor(name)) for name in reader.names)
    save_weights(temporary, tensors, config=reader.config, metadata={**reader.metadata, HEAD: RANDOM})
    files.publish(temporary, tmp_path / "w", {"kind": "weights"})
    with pytest.raises(BadConfig, match="has no trained head for masked language modelling"):
        generate.load(tmp_path / "w", tokenizer=corpus_folder / "tokenizer")


def test_pairs_are_for_models_that_were_taught_by_them(taught):
    model = generate.load(taught("pseudo_masked"))
    with pytest.raises(BadConfig, match="this model was taught by single texts, found"):
        model.write([("a", "b")])
    paired = dataclasses.replace(model, columns=dataclasses.replace(model.columns, pair="other"))
    row = paired.example({"src": "a tree", "other": "a house"}, paired.columns)["input_ids"]
    assert (row == model.facts.vocabulary.eos).sum() == 2
    assert len(paired.write([("a tree", "a house")])) == 1
    with pytest.raises(BadConfig, match="this model was taught by pairs of texts"):
        paired.write(["a"])
