"""s2s-ft's three methods (Bao et al. 2021): what is packed, what is noised how often, and where the loss is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megas2s.data.loader import Columns as Width
from megas2s.data.loader import collate
from megas2s.errors import BadConfig, BadData
from megas2s.labels import IGNORED
from megas2s.methods import AnyMethod, Causal, Masked, PseudoMasked, Seq2Seq
from megas2s.methods.base import Columns
from megas2s.methods.writing import BLANK
from megas2s.models.config import ModelConfig
from megas2s.models.transformer import build
from megas2s.rng import generator
from megas2s.spec import parse

COLUMNS = Columns(text="src", label="tgt")
RECORD = {"src": "one two three", "tgt": "eins zwei"}
LONG = {"src": "word " * 40, "tgt": "wort " * 40}
METHODS = {"causal": Causal(), "masked": Masked(), "pseudo_masked": PseudoMasked()}
SPANNED = PseudoMasked(span_length=3, span_prob=0.5)
ROUNDS = 4000


def opened(facts, begin=7):
    """The facts of a tokenizer that opens its rows."""
    tokenizer = facts.tokenizer
    vocabulary = dataclasses.replace(tokenizer.vocabulary, begin=begin)
    other = object.__new__(type(tokenizer))
    other.__dict__ = {**tokenizer.__dict__, "vocabulary": vocabulary}
    return facts._replace(tokenizer=other)


def example_of(method, facts, record=RECORD):
    return method.example(record, COLUMNS, facts)


def small(method, facts, *, layers=1):
    """A model that the method teaches, in evaluation mode."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": layers, "max_positions": 32}
    config = ModelConfig(vocab_size=facts.vocabulary.size, dropout=0.0, **sizes, pad_id=facts.vocabulary.pad)
    return build(method.shaped(config, ())).eval()


@pytest.mark.parametrize("begin", [None, 7])
@pytest.mark.parametrize("name", METHODS)
def test_special_tokens_stand_where_the_table_says(facts, tokenizer, name, begin):
    found = facts() if begin is None else opened(facts(), begin)
    eos = found.vocabulary.eos
    source, target = tokenizer.encode(RECORD["src"]).tolist(), tokenizer.encode(RECORD["tgt"]).tolist()
    example = example_of(METHODS[name], found)
    opening = [] if begin is None else [begin]
    assert example["labels"].tolist() == [*target, eos]
    if name == "causal":
        assert example["input_ids"].tolist() == [*opening, *source]
        assert example["target_ids"].tolist() == [eos, *target]
    else:
        assert example["input_ids"].tolist() == [*opening, *source, eos]
        assert example["target_ids"].tolist() == [*target, eos]


@pytest.mark.parametrize("begin", [None, 7])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_too_long_is_cut_on_the_right_and_keeps_its_end(facts, name, begin):
    found = facts() if begin is None else opened(facts(), begin)
    example, eos = example_of(METHODS[name], found, LONG), found.vocabulary.eos
    assert [len(example[key]) for key in ("input_ids", "target_ids", "labels")] == [16, 12, 12]
    assert example["labels"][-1] == eos
    assert (example["input_ids"][-1] == eos) == (name != "causal")


def drawn(method, facts, *, source=False, rounds=ROUNDS):
    """The same example, noised so many times."""
    example = example_of(method, facts, LONG)
    rows = [method.corrupt(example, generator(1, n), facts, source=source) for n in range(rounds)]
    return example, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def shares(found, original, mask):
    """How often a place stays, becomes the mask, becomes anything else; chance hits of the same token aside."""
    return (found == original).mean(), (found == mask).mean(), ((found != original) & (found != mask)).mean()


def test_causal_noises_what_it_reads_but_for_the_first(facts):
    found = facts()
    example, rows = drawn(Causal(target_mask_prob=0.5), found)
    original, mask = example["target_ids"], found.vocabulary.mask
    assert (rows["target_ids"][:, 0] == original[0]).all()
    stays, masked, other = shares(rows["target_ids"][:, 1:], original[1:], mask)
    assert stays == pytest.approx(0.5 + 0.5 * 0.1, abs=0.01)
    assert masked == pytest.approx(0.5 * 0.8, abs=0.01)
    assert other == pytest.approx(0.5 * 0.1, abs=0.01)
    assert (rows["labels"] == example["labels"]).all()


def test_masked_noises_exactly_its_share_and_learns_there_alone(facts):
    found = facts()
    for method, count in ((Masked(), 6), (Masked(target_mask_prob=0.3), 3), (Masked(max_masked=2), 2)):
        example, rows = drawn(method, found, rounds=1000)
        learnt = rows["labels"] != IGNORED
        assert (learnt.sum(axis=1) == count).all()
        assert learnt.mean(axis=0) == pytest.approx(count / 12, abs=0.06), "all places alike"
        assert (rows["labels"] == example["labels"])[learnt].all()
        assert (rows["target_ids"] == example["target_ids"])[~learnt].all()
        chosen = rows["target_ids"][learnt]
        assert (chosen == found.vocabulary.mask).mean() == pytest.approx(0.8, abs=0.03)
    short = example_of(Masked(target_mask_prob=0.01), found, {"src": "a", "tgt": "b"})
    noised = Masked(target_mask_prob=0.01).corrupt(short, generator(1, 2), found, source=False)
    assert (noised["labels"] != IGNORED).sum() == 1


def test_pseudo_tokens_are_drawn_and_context_becomes_what_its_pseudo_token_is(facts):
    found = facts()
    example, rows = drawn(PseudoMasked(target_mask_prob=0.4), found)
    original, mask = example["target_ids"], found.vocabulary.mask
    stays, masked, other = shares(rows["pseudo_ids"], original, mask)
    assert stays == pytest.approx(0.1, abs=0.01)
    assert masked == pytest.approx(0.8, abs=0.01)
    assert other == pytest.approx(0.1, abs=0.01)
    changed = rows["target_ids"] != original
    assert changed.mean() == pytest.approx(0.4 * 0.9, abs=0.01)
    assert (rows["target_ids"] == rows["pseudo_ids"])[changed].all()
    assert (rows["labels"] == original).all()
    assert "target_spans" not in rows


def test_spans_ascend_and_have_the_sizes_that_are_allowed(facts):
    found = facts()
    _, rows = drawn(SPANNED, found, rounds=500)
    for row in rows["target_spans"]:
        assert row[0] == 0
        assert set(np.diff(row).tolist()) <= {0, 1}
        sizes = np.bincount(row)[:-1]  # the last may be cut
        assert set(sizes.tolist()) <= {1, 2, 3}
    ones = np.mean([(np.bincount(row)[:-1] == 1).mean() for row in rows["target_spans"]])
    assert 0.4 < ones < 0.65


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("begin", [None, 7])
def test_the_source_is_noised_in_training_alone_and_never_its_special_tokens(facts, name, begin):
    found = facts() if begin is None else opened(facts(), begin)
    method = dataclasses.replace(METHODS[name], source_mask_prob=0.3)
    example, rows = drawn(method, found, source=True, rounds=2000)
    _, quiet = drawn(method, found, source=False, rounds=5)
    assert (quiet["input_ids"] == example["input_ids"]).all()
    changed = (rows["input_ids"] != example["input_ids"]).mean(axis=0)
    special = ([0] if begin else []) + ([] if name == "causal" else [15])
    assert (changed[special] == 0).all()
    assert np.delete(changed, special) == pytest.approx(0.3 * 0.9, abs=0.05)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("begin", [None, 7])
def test_a_language_s_tag_opens_both_rows_and_is_never_noised(facts, name, begin):
    found = facts() if begin is None else opened(facts(), begin)
    tag = found.vocabulary.languages["sw"]
    tagged = found._replace(source_tag=tag, target_tag=tag)
    method = dataclasses.replace(METHODS[name], source_mask_prob=0.9, target_mask_prob=0.9)
    example, rows = drawn(method, tagged, source=True, rounds=300)
    opening, reads = (1 if begin else 0), int(name == "causal")  # a causal target begins with what ends the source
    assert example["input_ids"][opening] == example["labels"][0] == tag
    assert example["forced_ids"].tolist() == [tag]
    assert (rows["input_ids"][:, opening] == tag).all()
    assert (rows["target_ids"][:, reads] == tag).all()
    assert (rows["target_ids"][:, reads + 1] != example["target_ids"][reads + 1]).mean() > 0.6
    assert [len(example[key]) for key in ("input_ids", "labels")] == [16, 12], "a tag is cut for, not beyond"
    if name == "masked":
        assert ((rows["labels"] != IGNORED).sum(axis=1) == int(0.9 * 11)).all()
        assert (rows["labels"][:, 0] == IGNORED).all()


@pytest.mark.parametrize("name", METHODS)
def test_an_answer_begins_with_the_tag_of_its_row(facts, name):
    found, method = facts(), METHODS[name]
    languages = found.vocabulary.languages
    model = small(method, found)
    own = [found._replace(target_tag=languages[language]) for language in ("sw", "zh")]
    examples = [example_of(method, each) for each in own]
    batch = collate(examples, Width(source=16, target=12, full=False, pad=found.vocabulary.pad))
    written = method.predictions(model, batch, found)
    assert written[:, 0].tolist() == [languages["sw"], languages["zh"]]
    free = method.predictions(model, {key: value for key, value in batch.items() if key != "forced_ids"}, found)
    assert not set(free[:, 0].tolist()) & set(languages.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_pair_of_texts_is_one_source(facts, tokenizer, name):
    columns = Columns(text="src", pair="hint", label="tgt", ends_between=2)
    example = METHODS[name].example({**RECORD, "hint": "four"}, columns, facts())
    eos = facts().vocabulary.eos
    texts = [tokenizer.encode(text).tolist() for text in (RECORD["src"], "four")]
    end = [] if name == "causal" else [eos]
    assert example["input_ids"].tolist() == [*texts[0], eos, eos, *texts[1], *end]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_head_at_the_last_block(facts, name, smoothing):
    found, method = facts(), dataclasses.replace(METHODS[name], label_smoothing=smoothing)
    model = small(method, found, layers=2)
    records = [RECORD, LONG]
    examples = [
        method.corrupt(example_of(method, found, record), generator(1, n), found, source=True)
        for n, record in enumerate(records)
    ]
    batch = collate(examples, Width(source=16, target=12, full=False, pad=found.vocabulary.pad))
    output = model(batch)
    parts = method.loss(output, batch)
    logits, labels = model.logits(output.encoder_hidden), batch["labels"]
    nll = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    counted = method.counts(batch)[name]
    assert counted.tolist() == (labels != IGNORED).sum(1).tolist()
    if not smoothing:
        torch.testing.assert_close(parts[name].total, nll.sum())
        assert parts.keys() == {name}
        return
    torch.testing.assert_close(parts["nll"].row_totals, nll.sum(1).detach())
    target = torch.full_like(logits, smoothing / (found.vocabulary.size - 2))
    target[..., found.vocabulary.pad] = 0
    target.scatter_(2, labels.clamp(min=0)[..., None], 1 - smoothing)
    each = F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1).masked_fill(labels == IGNORED, 0)
    torch.testing.assert_close(parts[name].total, each.sum())
    torch.testing.assert_close(parts[name].row_totals, each.sum(1).detach())


@pytest.mark.parametrize("method", [*METHODS.values(), SPANNED], ids=[*METHODS, "spanned"])
def test_a_row_beside_a_longer_one_is_learnt_from_as_alone(method, facts):
    """What fills the shorter one's source and target up, spans included, is seen by none of its tokens."""
    found, model = facts(), small(method, facts())
    examples = [
        method.corrupt(example_of(method, found, record), generator(5, n), found, source=True)
        for n, record in enumerate((LONG, RECORD))
    ]
    together = collate(examples, Width(source=16, target=12, full=False, pad=found.vocabulary.pad))
    states = model(together).encoder_hidden
    for example, row in zip(examples, states, strict=True):
        source, target = (len(example[name]) for name in ("input_ids", "labels"))
        alone = model(collate([example], Width(source, target, full=True, pad=0))).encoder_hidden[0]
        torch.testing.assert_close(row[:target], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.logits(row[:target]), model.logits(alone), atol=1e-5, rtol=0)


def test_what_a_record_holds_may_be_text_pieces_or_ids(facts, tokenizer):
    text = example_of(PseudoMasked(), facts())
    ids = {key: tokenizer.encode(value).tolist() for key, value in RECORD.items()}
    pieces = {key: [tokenizer.piece(token) for token in value] for key, value in ids.items()}
    for record in (ids, pieces):
        found = example_of(PseudoMasked(), facts(), record)
        assert all(np.array_equal(found[key], text[key]) for key in text)
        assert PseudoMasked().references([record], [found], COLUMNS, facts()) == [RECORD["tgt"]]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"tgt": "a"}, "a record has no 'src'"),
        ({"src": "a", "tgt": ""}, "'tgt' of a record is empty: there is nothing to learn to write"),
        ({"src": "a", "tgt": [99999999]}, "'tgt' of a record has the id 99999999, and ids end at"),
        ({"src": ["▁nosuchpiece"], "tgt": "a"}, "'▁nosuchpiece' is no piece of the tokenizer"),
        ({"src": {"a": 1}, "tgt": "a"}, "'src' of a record is dict"),
    ],
)
@pytest.mark.parametrize("method", [*METHODS.values(), Seq2Seq()], ids=lambda method: method.name)
def test_a_record_that_is_none_is_refused_with_a_sentence(method, record, said, facts):
    with pytest.raises(BadData, match=said):
        example_of(method, facts(is_seq2seq=method.name == "seq2seq"), record)


def test_a_blank_is_answered_and_an_empty_source_is_one_token_or_none(facts):
    found = facts()
    blank = example_of(PseudoMasked(), found, {"src": "", "tgt": BLANK})
    assert blank["labels"].tolist() == blank["input_ids"].tolist() == [found.vocabulary.eos]
    with pytest.raises(BadData, match="a record has an empty source; method causal needs one"):
        example_of(Causal(), found, {"src": "", "tgt": "a"})
    assert example_of(Causal(), opened(found), {"src": "", "tgt": "a"})["input_ids"].tolist() == [7]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "pseudo_masked", "target_mask_prob": 1.5}, "target_mask_prob must lie in"),
        ({"name": "masked", "keep_prob": 0.6, "random_prob": 0.5}, "add up to more than 1"),
        ({"name": "masked", "max_masked": 0}, "max_masked must be at least 1"),
        ({"name": "causal", "label_smoothing": 1.0}, "label_smoothing must lie in"),
        ({"name": "pseudo_masked", "span_length": 0}, "span_length must be at least 1"),
        ({"name": "causal", "span_length": 3}, "unknown key"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, said):
    with pytest.raises(BadConfig, match=said):
        parse(AnyMethod, given, source="recipe")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_decoder_is_refused(method, facts):
    config = ModelConfig(
        vocab_size=64, hidden_size=16, num_heads=2, ffn_size=32, num_encoder_layers=1, num_decoder_layers=1
    )
    with pytest.raises(ValueError, match="teaches an encoder to write, and these weights have a decoder"):
        method.shaped(config, ())


def test_the_separator_of_a_pair_is_no_text_to_noise(facts):
    found, columns = facts(), Columns(text="src", pair="other", label="tgt")
    method = PseudoMasked(source_mask_prob=1.0, keep_prob=0.0)
    example = method.example({"src": "one two", "other": "three", "tgt": "a"}, columns, found)
    row, noised = example["input_ids"], method.corrupt(example, generator(1, 2), found, source=True)["input_ids"]
    ends = row == found.vocabulary.eos
    assert ends.sum() == 2
    assert (noised[ends] == found.vocabulary.eos).all()
    assert (noised[~ends] != row[~ends]).mean() > 0.9


def test_causal_decoding_begins_with_the_end_whatever_a_decoder_would_read(facts):
    found = facts()._replace(decoder_start="pad")
    assert Causal().rules(found).start == found.vocabulary.eos


def test_a_tokenizer_without_a_mask_is_refused(facts):
    vocabulary = dataclasses.replace(facts().vocabulary, mask=None)
    with pytest.raises(BadConfig, match="method causal needs a mask token, and the tokenizer has none"):
        Causal().check(vocabulary)
