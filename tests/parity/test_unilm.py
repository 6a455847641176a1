"""UniLM's checkpoints, written as s2s-ft publishes and saves them, against BERT of transformers.

UniLM 2's relative positions come to BERT through its mask: a bias for each head, in the buckets that T5 of
transformers finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from megas2s.convert import hf
from megas2s.convert.export import export, shape
from megas2s.convert.importing import Incoming, incoming
from megas2s.convert.source import read_tokenizer
from megas2s.convert.tensors import HubTensors
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.weights import open_weights
from megas2s.tokenizer.vocab import stand_in

from .cases import VOCABULARY, WIDTH, encoder, inputs, logits_of_ours, ours_of, publish
from .packing import WRITTEN, batch, packed

HEADS, BINS, FARTHEST = 4, 8, 12  # the largest distance of a row is 29
CASE = encoder("BertForMaskedLM", pad=0, type_vocab_size=6, layer_norm_eps=1e-5)
TYPES = "bert.embeddings.token_type_embeddings.weight"
PUBLISHED = {"hidden_act": "gelu", "initializer_range": 0.02, "label_smoothing": 0.0, "layer_norm_epsilon": 1e-5}
RELATIVE = {"rel_pos_bins": BINS, "max_rel_pos": FARTHEST}
SAVED = {"model_type": "bert", "architectures": ["BertForSequenceToSequenceWithPseudoMask"], "layer_norm_eps": 1e-5}


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A BERT and its tensors; the bias of its keys is zero, and its head's copies are gone."""
    model = CASE.make()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.key.bias.zero_()
    model.set_attn_implementation("eager")
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    return model, {name: value.clone() for name, value in model.state_dict().items() if name not in tied}


def bias_weight() -> torch.Tensor:
    return torch.normal(0.0, 1.0, (HEADS, BINS), generator=torch.Generator().manual_seed(5))


def packed_maps(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One matrix a layer for queries, keys and values, and two biases, of the shape that they have in UniLM's files."""
    for layer in range(CASE.settings["num_hidden_layers"]):
        at = f"bert.encoder.layer.{layer}.attention.self."
        values[f"{at}qkv_linear.weight"] = torch.cat(
            [values.pop(f"{at}{name}.weight") for name in ("query", "key", "value")]
        )
        values[f"{at}q_bias"] = values.pop(f"{at}query.bias").view(1, 1, -1)
        values[f"{at}v_bias"] = values.pop(f"{at}value.bias").view(1, 1, -1)
        del values[f"{at}key.bias"]
    return values


def old_norms(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"weight": "gamma", "bias": "beta"}
    return {
        f"{stem}.{names[leaf]}" if "LayerNorm" in stem else name: value
        for name, value in values.items()
        for stem, _, leaf in [name.rpartition(".")]
    }


def write(folder: Path, values: dict[str, torch.Tensor], *, name: str = "pytorch_model.bin", **settings) -> Path:
    folder.mkdir()
    kept = {key: value for key, value in CASE.settings.items() if key != "layer_norm_eps"}
    (folder / "config.json").write_text(json.dumps({**kept, **settings}))
    torch.save(values, folder / name)
    return folder


def read(folder: Path) -> Incoming:
    return incoming(folder, hf.read_settings(folder), allow_pickle=True)


def first(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**old_norms(values), "cls.seq_relationship.weight": torch.ones(2, WIDTH)}


def second(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**packed_maps(values), "bert.rel_pos_bias.weight": bias_weight()}


def second_apart(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**old_norms(values), "bert.encoder.rel_pos_bias.weight": bias_weight()}


def tuned(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As s2s-ft saves what it has fine-tuned: the head's matrix again, and a constant of the loss."""
    again = {"cls.predictions.decoder_weight": values["bert.embeddings.word_embeddings.weight"].clone()}
    return {**values, **again, "crit_mask_lm_smoothed.one_hot": torch.ones(1, VOCABULARY)}


def tuned_second(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tuned(values), "bert.rel_pos_bias.weight": bias_weight()}


FILES: dict[str, tuple[Callable, dict]] = {
    "1": (first, PUBLISHED),
    "1 with types of its own": (first, {**PUBLISHED, "source_type_id": 4, "target_type_id": 5}),
    "2": (second, {**PUBLISHED, **RELATIVE}),
    "2 with maps apart": (second_apart, {**PUBLISHED, **RELATIVE}),
    "1 fine-tuned": (tuned, {**SAVED, "source_type_id": 0, "target_type_id": 1, "rel_pos_bins": 0, "max_rel_pos": 0}),
    "2 fine-tuned": (tuned_second, {**SAVED, **RELATIVE, "source_type_id": 5, "target_type_id": 0}),
}


@pytest.fixture(params=FILES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def bias_of(positions: torch.Tensor) -> torch.Tensor:
    """What is added to the scores between positions (B, L): (B, H, L, L)."""
    distance = positions[:, None, :] - positions[:, :, None]
    buckets = T5Attention._relative_position_bucket(distance, True, BINS, FARTHEST)
    return bias_weight().T[buckets].permute(0, 3, 1, 2)


@torch.no_grad()
def test_a_checkpoint_gives_the_logits_of_bert_with_its_bias_in_the_mask(kind: str, tmp_path):
    theirs, values = bert()
    make, settings = FILES[kind]
    model = ours_of(read(write(tmp_path / "theirs", make(values), **settings)))
    given = inputs(CASE)
    order = [settings.get("source_type_id", 0), settings.get("target_type_id", 1)]
    real = given["attention_mask"].bool()
    positions = torch.arange(real.shape[1])[None]
    mask = torch.zeros(real.shape).masked_fill(~real, torch.finfo(torch.float32).min)[:, None, None, :]
    mask = mask + bias_of(positions) if settings.get("rel_pos_bins") else mask
    types = torch.tensor(order)[given["token_type_ids"]]
    expected = theirs(given["input_ids"], mask.expand(-1, -1, real.shape[1], -1), types, positions).logits[real]
    logits = logits_of_ours(model, given, CASE.pad, head=True)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert model.config.norm_epsilon == 1e-5


@torch.no_grad()
@pytest.mark.parametrize("pseudo", [False, True], ids=["target", "pseudo"])
def test_a_packed_row_has_its_logits_too(kind: str, pseudo: bool, tmp_path):
    """The bias of a pseudo token is that of the target's token at its position."""
    theirs, values = bert()
    make, settings = FILES[kind]
    model = ours_of(read(write(tmp_path / "theirs", make(values), **settings)))
    given = batch(CASE, pseudo=pseudo)
    row = packed(given)
    order = [settings.get("source_type_id", 0), settings.get("target_type_id", 1)]
    row["token_type_ids"] = torch.tensor(order)[row["token_type_ids"]]
    if settings.get("rel_pos_bins"):
        row["attention_mask"] = row["attention_mask"] + bias_of(row["position_ids"])
    logits = model.logits(model(given).encoder_hidden)
    torch.testing.assert_close(logits, theirs(**row).logits[:, -WRITTEN:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_roberta_that_s2s_ft_saved_is_a_bert_without_types(tmp_path):
    """It renames RoBERTa's tensors and leaves the types and the first rows of the positions out."""
    theirs, values = bert()
    theirs.bert.embeddings.token_type_embeddings.weight.zero_()
    del values[TYPES]
    folder = write(tmp_path / "theirs", tuned(values), **{**SAVED, "type_vocab_size": 0, "source_type_id": 0})
    found = read(folder)
    assert (found.config.segment_types, found.config.family) == (0, "bert")
    given = {name: value for name, value in inputs(CASE).items() if name != "token_type_ids"}
    expected = theirs(**given).logits[given["attention_mask"].bool()]
    torch.testing.assert_close(logits_of_ours(ours_of(found), given, 0, head=True), expected, atol=1e-4, rtol=0)


def test_every_tensor_is_read_as_it_is(kind: str, tmp_path):
    """Bit for bit, whatever the layout; the rows of types alone may have another order."""
    _, values = bert()
    make, settings = FILES[kind]
    found = read(write(tmp_path / "theirs", make(dict(values)), **settings))
    ours = dict(found.tensors())
    for entry in shape(found.config, None, stand_in(VOCABULARY)).entries if found.config.family == "bert" else ():
        if entry.ours is not None and entry.theirs != TYPES:
            assert torch.equal(ours[entry.ours], values[entry.theirs]), entry.theirs
    relative = bool(settings.get("rel_pos_bins"))
    assert (found.config.positions, found.config.family) == (("both", "unilm") if relative else ("learned", "bert"))
    if relative:
        assert torch.equal(ours["encoder.relative_bias.weight"], bias_weight().T)
        assert (found.config.relative_buckets, found.config.relative_max_distance) == (BINS, FARTHEST)
        assert torch.equal(
            ours["encoder.layers.1.self_attention.k.weight"], values["bert.encoder.layer.1.attention.self.key.weight"]
        )
        assert not ours["encoder.layers.1.self_attention.k.bias"].any()
    order = [settings.get("source_type_id", 0), settings.get("target_type_id", 1)]
    table = ours["encoder.types.weight"]
    assert torch.equal(table[:2], values[TYPES][order])
    assert sorted(table.tolist()) == sorted(values[TYPES].tolist())
    assert any(note.startswith("types ") for note in found.notes) == (order != [0, 1])


def test_unilm_1_goes_back_as_bert(corpus_folder, tmp_path):
    theirs, values = bert()
    found = read(write(tmp_path / "theirs", first(values), **PUBLISHED))
    publish(tmp_path / "ours", found)
    tokenizer = read_tokenizer(corpus_folder / "tokenizer")
    export(open_weights(tmp_path / "ours"), tokenizer, tmp_path / "back", check=False)
    again = type(theirs).from_pretrained(tmp_path / "back")
    assert again.config.type_vocab_size == 6
    assert again.config.layer_norm_eps == 1e-5
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_unilm_2_has_no_class_to_go_back_as(tmp_path):
    found = read(write(tmp_path / "theirs", second(bert()[1]), **PUBLISHED, **RELATIVE))
    with pytest.raises(BadConfig, match=r"UniLM 2 has, are in no class of transformers: .* stays in the format of meg"):
        shape(found.config, None, stand_in(VOCABULARY))


def test_a_file_named_after_its_model_is_found_where_it_is_the_only_one(tmp_path):
    folder = write(tmp_path / "theirs", first(bert()[1]), name="unilm1-base-cased.bin", **PUBLISHED)
    (folder / "training_args.bin").write_bytes(b"no weights")
    with pytest.raises(BadConfig, match=r"has its weights in unilm1-base-cased\.bin alone: pickled files can run code"):
        HubTensors(folder)
    assert read(folder).config.segment_types == 6
    (folder / "another.bin").write_bytes(b"no weights")
    with pytest.raises(BadConfig, match=r"has no model\.safetensors"):
        read(folder)


def without(name: str) -> Callable:
    return lambda values: {key: value for key, value in second(values).items() if key != name}


def changed(name: str, value: torch.Tensor) -> Callable:
    return lambda values: {**second(values), name: value}


AT = "bert.encoder.layer.1.attention.self."
BAD = {
    "packed map of another size": (
        changed(f"{AT}qkv_linear.weight", torch.ones(3 * WIDTH + 3, WIDTH)),
        {},
        rf"{AT}value\.weight, made of {AT}qkv_linear\.weight, has shape \(27, 24\), its config\.json says \(24, 24\)",
    ),
    "packed map lacks": (without(f"{AT}qkv_linear.weight"), {}, rf"has no tensor {AT}qkv_linear\.weight"),
    "packed bias lacks": (without(f"{AT}v_bias"), {}, rf"has no tensor {AT}v_bias, which its config\.json calls for"),
    "a map twice": (
        changed(f"{AT}key.weight", torch.ones(WIDTH, WIDTH)),
        {},
        rf"{AT}key\.weight and {AT}qkv_linear\.weight, which holds it too; remove one of them",
    ),
    "another number of heads": (
        changed("bert.rel_pos_bias.weight", torch.ones(3, BINS)),
        {},
        r"rel_pos_bias\.weight has shape \(8, 3\), its config\.json says \(8, 4\)",
    ),
    "table lacks": (without("bert.rel_pos_bias.weight"), {}, r"has no tensor bert\.rel_pos_bias\.weight"),
    "no bins": (second, {"rel_pos_bins": 0}, r"hold relative positions, .* config\.json has no rel_pos_bins; complete"),
    "bins not of four": (second, {"rel_pos_bins": 10}, "rel_pos_bins must be a multiple of 4, got 10"),
    "no distance": (second, {"max_rel_pos": None}, "config.json has max_rel_pos None, a number is needed"),
    "distance within the bins": (
        second,
        {"max_rel_pos": 4},
        r"max_rel_pos must exceed half of rel_pos_bins \(4\), got",
    ),
    "a type that is not there": (second, {"source_type_id": 6}, "source_type_id 6 and target_type_id 1, two different"),
    "one type for both": (second, {"source_type_id": 1}, "source_type_id 1 and target_type_id 1, two different types"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_in_a_sentence(case: str, tmp_path):
    make, settings, said = BAD[case]
    folder = write(tmp_path / "theirs", make(bert()[1]), **{**PUBLISHED, **RELATIVE, **settings})
    with pytest.raises((BadConfig, BadCheckpoint), match=said) as refusal:
        read(folder)
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_without_its_configuration_is_refused(tmp_path):
    folder = write(tmp_path / "theirs", second(bert()[1]), **PUBLISHED, **RELATIVE)
    (folder / "config.json").rename(folder / "unilm2-base-uncased-config.json")
    with pytest.raises(BadConfig, match=r"no .*config\.json; rename unilm2-base-uncased-config\.json to it"):
        read(folder)
    (folder / "unilm2-base-uncased-config.json").unlink()
    with pytest.raises(BadConfig, match=r"no .*config\.json; give a folder"):
        read(folder)
