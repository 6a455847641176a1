"""Records become rows, labels stay with what they label, answers come back as people wrote them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megas2s.data.loader import Columns as Width
from megas2s.data.loader import collate
from megas2s.errors import BadConfig, BadData
from megas2s.labels import IGNORED
from megas2s.methods import Classify, Regress, Seq2Seq, Tag
from megas2s.methods.base import Columns, encoded, joined, tokens_of
from megas2s.methods.tag import encode_words
from megas2s.models.config import ModelConfig
from megas2s.models.transformer import build
from megas2s.spec import parse

PAIR = Columns(text="a", pair="b", label="score")
TAGS = Columns(text="tokens", label="tags")
SIZES = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": 1, "max_positions": 32}


def config(facts, **changes) -> ModelConfig:
    return ModelConfig(vocab_size=facts.vocabulary.size, dropout=0.0, **{**SIZES, **changes})


def batch_of(examples, facts):
    width = max(len(example["input_ids"]) for example in examples)
    target = max((len(example.get("decoder_input_ids", ())) for example in examples), default=0)
    batch = collate(examples, Width(source=width, target=target, full=False, pad=facts.vocabulary.pad))
    return {**batch, "sample": torch.arange(len(examples))}


def run(method, examples, facts, labels=(), **changes):
    torch.manual_seed(0)
    model = build(method.shaped(config(facts, **changes), labels)).eval()
    batch = batch_of(examples, facts)
    return model, batch, model(batch)


def test_two_texts_are_one_row_and_the_longer_is_cut_first(facts):
    found = facts(length=12)
    left, right = np.arange(20, 40), np.arange(60, 64)
    row, types = joined([left, right], found)
    eos = found.vocabulary.eos
    assert row.tolist() == [20, 21, 22, 23, 24, 25, eos, 60, 61, 62, 63, eos]
    assert types.tolist() == [0] * 7 + [1] * 5
    row, _ = joined([left, left], found)
    assert row.tolist() == [20, 21, 22, 23, 24, eos, 20, 21, 22, 23, 24, eos]
    assert joined([right], found)[0].tolist() == [60, 61, 62, 63, eos]
    assert len(joined([left], found)[0]) == 12
    assert joined([right, right], found, ends_between=2)[0].tolist() == [*right, eos, eos, *right, eos]


def test_a_class_is_read_from_the_mean_of_an_encoder_s_states(facts):
    labels = ("0", "1", "x")
    found, method = facts(labels), Classify()
    records = [{"text": "one two three", "label": 1}, {"text": "four", "label": "x"}]
    assert [method.named(record, Columns()) for record in records] == [("1",), ("x",)]
    examples = [method.example(record, Columns(), found) for record in records]
    model, batch, output = run(method, examples, found, labels)
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = (output.encoder_hidden * mask).sum(1) / mask.sum(1)
    scores = model.text(pooled)
    part = method.loss(output, batch)["classify"]
    torch.testing.assert_close(part.total, F.cross_entropy(scores, torch.tensor([1, 2]), reduction="sum"))
    predictions = method.predictions(model, batch, found)
    assert predictions.tolist() == scores.argmax(-1).tolist()
    assert method.answers(predictions.numpy(), examples, found) == [labels[n] for n in predictions.tolist()]
    assert method.references(records, examples, Columns(), found) == ["1", "x"]


def test_an_encoder_decoder_reads_a_text_from_its_last_state(facts):
    found, method = facts(("0", "1"), is_seq2seq=True), Classify()
    records = [{"text": "one two three", "label": 1}, {"text": "four", "label": 0}]
    examples = [method.example(record, Columns(), found) for record in records]
    assert examples[0]["decoder_input_ids"].tolist() == [found.start, *examples[0]["input_ids"][:-1].tolist()]
    model, batch, output = run(method, examples, found, ("0", "1"), num_decoder_layers=1)
    last = batch["attention_mask"].sum(1) - 1
    scores = model.text(output.decoder_hidden[torch.arange(2), last])
    part = method.loss(output, batch)["classify"]
    torch.testing.assert_close(part.total, F.cross_entropy(scores, torch.tensor([1, 0]), reduction="sum"))
    with pytest.raises(ValueError, match="an encoder-decoder is read from its last state"):
        Classify(pool="mean").shaped(config(found, num_decoder_layers=1), ("0", "1"))


def test_the_first_state_may_stand_for_a_text(facts):
    found = facts(("0", "1"))
    example = Classify(pool="first").example({"text": "one two", "label": 0}, Columns(), found)
    assert example["pooled"].tolist() == [1] + [0] * (len(example["input_ids"]) - 1)


def test_a_number_is_learnt_by_its_squared_error(facts):
    found, method = facts(), Regress()
    records = [{"a": "one", "b": "two", "score": 2.5}, {"a": "x", "b": "y z", "score": "4"}]
    examples = [method.example(record, PAIR, found) for record in records]
    model, batch, output = run(method, examples, found)
    assert batch["numbers"].dtype == torch.float64
    answers = method.predictions(model, batch, found)
    expected = (answers - torch.tensor([2.5, 4.0])).square()
    part = method.loss(output, batch)["regress"]
    torch.testing.assert_close(part.row_totals, expected.detach())
    assert method.references(records, examples, PAIR, found) == [2.5, 4.0]


def test_rows_that_fill_a_batch_up_cost_nothing(facts):
    for method, record, labels in (
        (Classify(), {"text": "one", "label": 0}, ("0", "1")),
        (Regress(), {"text": "one", "label": 1.0}, ()),
    ):
        found = facts(labels)
        examples = [method.example(record, Columns(), found)] * 2
        _, batch, output = run(method, examples, found, labels)
        filled = {**batch, "sample": torch.tensor([0, -1])}
        part = method.loss(output, filled)[method.name]
        assert method.counts(filled)[method.name].tolist() == [1.0, 0.0]
        assert part.row_totals[1] == 0
        assert part.row_totals[0] > 0


def test_a_tag_lies_at_the_first_piece_of_its_word(facts, tokenizer):
    found, method = facts(("N", "P", "V"), length=32), Tag()
    record = {"tokens": ["Something", "changes", "."], "tags": ["N", "V", "P"]}
    example = method.example(record, TAGS, found)
    pieces = encode_words(record["tokens"], tokenizer)
    assert np.concatenate(pieces).tolist() == tokenizer.encode("Something changes")[
        : sum(map(len, pieces[:2]))
    ].tolist() + (pieces[2].tolist())
    places = np.flatnonzero(example["encoder_labels"] != IGNORED)
    assert places.tolist() == [0, len(pieces[0]), len(pieces[0]) + len(pieces[1])]
    assert example["encoder_labels"][places].tolist() == [0, 2, 1]
    model, batch, _ = run(method, [example], found, ("N", "P", "V"))
    predictions = method.predictions(model, batch, found)
    assert predictions.shape == (1, 32)
    answers = method.answers(predictions.numpy(), [example], found)
    assert [len(row) for row in answers] == [3]
    assert method.references([record], [example], TAGS, found) == [["N", "V", "P"]]


def test_words_beyond_the_row_are_not_scored(facts):
    found, method = facts(("N",), length=8), Tag()
    record = {"tokens": ["word"] * 20, "tags": ["N"] * 20}
    example = method.example(record, TAGS, found)
    kept = int((example["encoder_labels"] != IGNORED).sum())
    assert 0 < kept < 8
    assert method.references([record], [example], TAGS, found) == [["N"] * kept]
    assert example["encoder_labels"][-1] == IGNORED


def test_a_text_is_written_given_another(facts, tokenizer):
    found, method = facts(is_seq2seq=True), Seq2Seq()
    record = {"src": "one two", "tgt": "eins zwei"}
    columns = Columns(text="src", label="tgt")
    example = method.example(record, columns, found)
    assert tokenizer.decode(example["labels"]) == "eins zwei"
    assert example["decoder_input_ids"].tolist() == [found.start, *example["labels"][:-1].tolist()]
    model, batch, output = run(method, [example], found, num_decoder_layers=1)
    logits = model.logits(output.decoder_hidden).flatten(0, 1)
    part = method.loss(output, batch)["seq2seq"]
    torch.testing.assert_close(part.total, F.cross_entropy(logits, batch["labels"].flatten(), reduction="sum"))
    written = method.predictions(model, batch, found)
    assert written.shape == (1, 12)
    assert method.answers(written.numpy(), [example], found) == [tokenizer.decode(written[0].numpy())]
    with pytest.raises(ValueError, match="these weights are an encoder's"):
        method.shaped(config(found), ())


def test_an_encoder_decoder_writes_the_tag_of_a_row_s_language_first(facts):
    found, method = facts(is_seq2seq=True), Seq2Seq()
    tags = [found.vocabulary.languages[language] for language in ("sw", "zh")]
    record = {"src": "one two", "tgt": "eins zwei"}
    columns = Columns(text="src", label="tgt")
    examples = [method.example(record, columns, found._replace(source_tag=tag, target_tag=tag)) for tag in tags]
    for example, tag in zip(examples, tags, strict=True):
        assert example["input_ids"][0] == example["labels"][0] == tag
        assert example["decoder_input_ids"][:2].tolist() == [found.start, tag]
    model, batch, _ = run(method, examples, found, num_decoder_layers=1)
    assert method.predictions(model, batch, found)[:, 0].tolist() == tags
    assert method.answers(np.array([[tags[0], *found.tokenizer.encode("drei")]]), examples[:1], found) == ["drei"]


def test_ids_that_are_there_already_are_not_encoded_again(facts, tokenizer):
    records = [{"a": "one", "b": ["two"], "c": 5}, {"a": "", "b": "three"}]
    found = encoded(records, ("a", "b", "d"), tokenizer)
    assert found[0]["a"].tolist() == tokenizer.encode("one").tolist()
    assert (found[0]["b"], found[0]["c"], len(found[1]["a"])) == (["two"], 5, 0)
    assert tokens_of(found[1], "b", tokenizer) is found[1]["b"]
    assert records[0]["a"] == "one"
    assert encoded([], ("a",), tokenizer) == []


@pytest.mark.parametrize(
    ("method", "record", "columns", "said"),
    [
        (Classify(), {"txt": "a", "label": 1}, Columns(), "a record has no 'text'; did you mean 'txt'"),
        (
            Classify(),
            {"text": 5, "label": 1},
            Columns(),
            "'text' of a record is int '5'; give a text, a list",
        ),
        (Classify(), {"text": "a", "label": 0.5}, Columns(), "a class is a text or a whole number"),
        (Regress(), {"text": "a", "label": "much"}, Columns(), "a finite number is needed"),
        (Regress(), {"text": "a", "label": float("nan")}, Columns(), "a finite number is needed"),
        (Tag(), {"tokens": "a b", "tags": ["N"]}, TAGS, "tagging needs a list of texts"),
        (Tag(), {"tokens": ["a", "b"], "tags": ["0"]}, TAGS, "a record has 2 words and 1 tags"),
    ],
)
def test_a_record_that_is_none_is_refused_with_a_sentence(method, record, columns, said, facts):
    with pytest.raises(BadData, match=said):
        method.example(record, columns, facts(("0", "1")))


def test_labels_that_training_has_not_are_places_to_answer_and_nothing_to_learn(facts):
    found = facts(("0", "1"))
    examples = [Classify().example({"text": "one", "label": label}, Columns(), found) for label in (1, 7)]
    _, batch, output = run(Classify(), examples, found, ("0", "1"))
    part = Classify().loss(output, batch)["classify"]
    assert part.row_totals[0] > 0
    assert part.row_totals[1] == 0
    tagged = facts(("N", "V"))
    row = {"tokens": ["one", "two"], "tags": ["N", "X"]}
    assert Tag().named(row, TAGS) == ["N", "X"]
    example = Tag().example(row, TAGS, tagged)
    model, batch, output = run(Tag(), [example], tagged, ("N", "V"))
    assert Tag().loss(output, batch)["tag"].total > 0
    answers = Tag().answers(Tag().predictions(model, batch, tagged).numpy(), [example], tagged)
    assert len(answers[0]) == 2
    assert Tag().references([row], [example], TAGS, tagged) == [["N", "X"]]


def test_one_class_is_nothing_to_tell_apart(facts):
    with pytest.raises(BadData, match="the training data has one class, '1'"):
        Classify().shaped(config(facts()), ("1",))


def test_a_method_that_is_none_is_refused():
    from megas2s.methods import AnyMethod

    with pytest.raises(BadConfig, match="clasify"):
        parse(AnyMethod, {"name": "clasify"}, source="recipe")
