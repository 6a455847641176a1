"""Exports as a stranger uses them: loaded by AutoModel and AutoTokenizer, compared with our model, generated from."""

import dataclasses

import pytest
import torch
import transformers
from safetensors import safe_open

from megas2s import files
from megas2s.convert import hf
from megas2s.convert.export import export, shape
from megas2s.convert.source import read_tokenizer
from megas2s.labels import IGNORED
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.presets import PRESETS, preset
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights
from megas2s.tokenizer.load import Tokenizer

TYINGS = ["tied", "tied_to_decoder", "untied"]


@pytest.fixture(scope="module")
def tokenizer(corpus_folder):
    return Tokenizer.load(corpus_folder / "tokenizer")


@pytest.fixture
def exported(tokenizer, tmp_path):
    """A random model of ours and the folder it was exported to."""

    def make(part=None, **changes):
        vocabulary = tokenizer.vocabulary
        sizes = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 3, "max_positions": 40}
        config = ModelConfig(**{**sizes, "vocab_size": vocabulary.size, "pad_id": vocabulary.pad, **changes})
        model = build(config)
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.2, generator=generator)
        publish(tmp_path / "weights", config, canonical_parameters(model).items())
        reader = open_weights(tmp_path / "weights")
        export(reader, read_tokenizer(tokenizer.folder), tmp_path / "hub", part=part, check=False)
        return model.eval(), tmp_path / "hub"

    return make


def publish(folder, config, tensors):
    temporary = files.temporary_folder(folder)
    save_weights(temporary, ((name, value.detach()) for name, value in tensors), config=config, metadata={})
    files.publish(temporary, folder, {"kind": "weights"})


def padded(texts, tokenizer, filler):
    rows = [[*tokenizer.encode(text)[:30], tokenizer.vocabulary.eos] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


TEXTS = ["The train to the coast leaves at seven in the morning.", "Habari", "火车早上七点开往海边。"]
TARGETS = ["Seven", "The train leaves early, and nobody knows why.", "火车"]


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_reloaded_encoder_gives_our_logits_and_our_loss(exported, tokenizer, activation):
    ours, folder = exported(activation=activation, norm_epsilon=1e-6)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert type(theirs).__name__ == "RobertaPreLayerNormForMaskedLM"
    batch = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    pad, mask = tokenizer.vocabulary.pad, batch["attention_mask"]
    assert torch.equal(batch["input_ids"], padded(TEXTS, tokenizer, pad))
    labels = batch["input_ids"].masked_fill(mask.eq(0), IGNORED)
    labels[:, ::3] = IGNORED
    expected = theirs.eval()(input_ids=batch["input_ids"], attention_mask=mask, labels=labels)
    output = ours({"input_ids": batch["input_ids"], "attention_mask": mask})
    real = mask.bool()
    torch.testing.assert_close(ours.logits(output.encoder_hidden)[real], expected.logits[real], atol=1e-4, rtol=0)
    loss = output.encoder_vocabulary_loss(output.encoder_hidden.flatten(0, 1), labels.flatten()).total
    torch.testing.assert_close(loss / labels.ne(IGNORED).sum(), expected.loss, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("tying", TYINGS)
def test_a_reloaded_seq2seq_model_gives_our_logits_and_our_loss(exported, tokenizer, tying):
    ours, folder = exported(num_decoder_layers=2, tying=tying)
    theirs, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    vocabulary = tokenizer.vocabulary
    ids = padded(TEXTS, tokenizer, vocabulary.pad)
    mask = ids.ne(vocabulary.pad).long()
    labels = padded(TARGETS, tokenizer, IGNORED)
    expected = theirs.eval()(input_ids=ids, attention_mask=mask, labels=labels)
    shifted = torch.cat([torch.full((3, 1), vocabulary.eos), labels[:, :-1]], dim=1)
    shifted = shifted.masked_fill(shifted.eq(IGNORED), vocabulary.pad)
    output = ours({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted})
    real = labels.ne(IGNORED)
    torch.testing.assert_close(ours.logits(output.decoder_hidden)[real], expected.logits[real], atol=1e-4, rtol=0)
    loss = output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), labels.flatten()).total
    torch.testing.assert_close(loss / real.sum(), expected.loss, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("tying", TYINGS)
def test_the_encoder_part_gives_our_states(exported, tokenizer, tying):
    ours, folder = exported(part="encoder", num_decoder_layers=1, tying=tying)
    theirs = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = padded(TEXTS, tokenizer, tokenizer.vocabulary.pad)
    mask = ids.ne(tokenizer.vocabulary.pad).long()
    states = ours.encode(ids, attention_mask=mask)[mask.bool()]
    found = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(states, found, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_encoder_part_is_the_body_of_a_classifier(exported, tokenizer):
    ours, folder = exported(part="encoder", num_decoder_layers=1)
    classifier = transformers.AutoModelForTokenClassification.from_pretrained(folder, num_labels=3)
    body = classifier.roberta_prelayernorm.eval()
    ids = padded(TEXTS, tokenizer, tokenizer.vocabulary.pad)
    mask = ids.ne(tokenizer.vocabulary.pad).long()
    found = body(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(ours.encode(ids, attention_mask=mask)[mask.bool()], found, atol=1e-4, rtol=0)


def test_our_own_check_compares_every_real_position(exported, tokenizer):
    """What the tool reports is measured on rows of several lengths, of which the longest is not padded."""
    vocabulary = tokenizer.vocabulary
    config = ModelConfig(
        vocab_size=vocabulary.size, hidden_size=8, num_heads=2, ffn_size=8, num_encoder_layers=1, num_decoder_layers=1
    )
    batch = hf.sample_rows(config, vocabulary)
    assert batch["attention_mask"].sum(1).tolist() == list(hf.LENGTHS)
    assert batch["labels"].ne(IGNORED).sum(1).tolist() == list(hf.TARGET_LENGTHS)
    last = batch["labels"].ne(IGNORED).sum(1) - 1
    assert batch["labels"].gather(1, last[:, None]).eq(vocabulary.eos).all()
    short = hf.sample_rows(dataclasses.replace(config, max_positions=20), vocabulary)
    assert {value.shape[1] for value in short.values()} == {20}


OURS = [name for name, shape in PRESETS.items() if shape.family is None]
FULL_SIZE = [(name, tying) for name in OURS for tying in (["untied"] if name == "alexatm_20b" else TYINGS)]


@pytest.mark.parametrize(("name", "tying"), FULL_SIZE)
def test_every_preset_of_our_own_has_the_names_and_shapes_of_transformers(tokenizer, name, tying):
    config = dataclasses.replace(preset(name, vocab_size=150_016), tying=tying)
    for part in ("seq2seq", "encoder"):
        compare_names(shape(config, part, tokenizer.vocabulary), tokenizer)
    compare_names(shape(config.encoder_only(), None, tokenizer.vocabulary), tokenizer)


def compare_names(exported, tokenizer):
    settings = exported.family.settings(exported.config, tokenizer.vocabulary)
    settings = {"model_type": exported.family.model_type, "architectures": [exported.architecture], **settings}
    hf.compare_names(exported, settings)


def test_a_name_too_few_would_be_noticed(tokenizer):
    exported = shape(preset("tiny", vocab_size=640), "seq2seq", tokenizer.vocabulary)
    whole = exported.family.entries
    family = exported.family._replace(entries=lambda config, head: whole(config, head)[1:])
    with pytest.raises(RuntimeError, match="final_logits_bias"):
        compare_names(exported._replace(family=family), tokenizer)


def test_fill_mask_gives_pieces_of_text(exported, tokenizer):
    _, folder = exported()
    fill = transformers.pipeline("fill-mask", model=str(folder))
    found = fill("The train to the coast leaves at <mask> in the morning.", top_k=4)
    assert len({one["token"] for one in found}) == 4
    assert all(0 <= one["token"] < tokenizer.vocabulary.size for one in found)


@pytest.mark.parametrize("tying", TYINGS)
def test_generation_is_greedy_and_ends_by_itself_or_at_the_last_position(exported, tokenizer, tying):
    ours, folder = exported(num_decoder_layers=1, tying=tying)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    rows = theirs.generate(**batch)
    assert torch.equal(rows, theirs.generate(**batch))
    assert rows.shape[1] <= 40
    assert rows[:, 0].eq(tokenizer.vocabulary.eos).all()
    assert torch.equal(rows[:, :12], greedily(ours, batch, tokenizer.vocabulary)[:, : rows.shape[1]])


@torch.no_grad()
def greedily(model, batch, vocabulary, steps=11):
    """The likeliest token at each step, by our model without any cache."""
    memory = model.encode(batch["input_ids"], attention_mask=batch["attention_mask"])
    rows = torch.full((len(memory), 1), vocabulary.eos)
    ended = torch.zeros(len(memory), dtype=torch.bool)
    for _ in range(steps):
        hidden = model.decode(rows, memory, attention_mask=batch["attention_mask"])
        best = model.logits(hidden[:, -1]).argmax(-1).masked_fill(ended, vocabulary.pad)
        ended |= best.eq(vocabulary.eos)
        rows = torch.cat([rows, best[:, None]], dim=1)
    return rows


def test_safetensors_metadata_says_pytorch(exported):
    _, folder = exported()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
