import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from megas2s.convert.export import export
from megas2s.convert.hf import read_settings
from megas2s.convert.importing import incoming
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.parameters import parameter_shapes

KINDS = {
    "encoder": {},
    "tied": {"num_decoder_layers": 1, "tying": "tied"},
    "tied_to_decoder": {"num_decoder_layers": 1, "tying": "tied_to_decoder"},
    "untied": {"num_decoder_layers": 1, "tying": "untied"},
}


@pytest.fixture
def exported(tmp_path, small, write_weights, stored):
    """Export a random model of some kind; gives the reader and the Hugging Face folder."""

    def make(kind, **options):
        reader = write_weights(small(**KINDS[kind]), tmp_path / "weights")
        export(reader, stored, tmp_path / "hub", check=False, **options)
        return reader, tmp_path / "hub"

    return make


def read(folder):
    return incoming(folder, read_settings(folder))


def change(folder, change_tensors=None, **settings):
    """Rewrite a folder as a person or transformers might have."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    if change_tensors is not None:
        values = load_file(folder / "model.safetensors")
        change_tensors(values)
        save_file(values, folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_there_and_back_is_bitwise(exported, kind, shard_bytes):
    reader, folder = exported(kind, shard_bytes=shard_bytes)
    found = read(folder)
    family = "roberta-prelayernorm" if kind == "encoder" else "mbart"  # what it came as, it is exported as again
    assert found.config == dataclasses.replace(reader.config, family=family)
    assert (found.metadata, found.notes) == (reader.metadata, [])
    back = dict(found.tensors())
    assert back.keys() == parameter_shapes(reader.config).keys()
    for name, value in back.items():
        assert torch.equal(value, reader.tensor(name)), name


@pytest.mark.parametrize("kind", ["tied", "tied_to_decoder", "untied"])
def test_the_encoder_part_comes_back_with_a_new_head_and_says_so(exported, kind):
    reader, folder = exported(kind, part="encoder")
    found = read(folder)
    assert found.config == dataclasses.replace(reader.config.encoder_only(), family="roberta-prelayernorm")
    assert ["random one was made" in note for note in found.notes] == [True]
    back = dict(found.tensors())
    embedding = "shared.weight" if kind == "tied" else "encoder.embed.weight"
    assert torch.equal(back.pop("encoder.embed.weight"), reader.tensor(embedding))
    for name in [name for name in back if name.startswith("encoder.")]:
        assert torch.equal(back[name], reader.tensor(name)), name
    again = dict(read(folder).tensors())
    assert torch.equal(again["mlm.dense.weight"], back["mlm.dense.weight"])
    assert back["mlm.dense.weight"].std() > 0.01


def test_without_our_metadata_decoder_and_head_stay_apart(exported):
    reader, folder = exported("tied_to_decoder")
    (folder / "megas2s.json").unlink()
    found = read(folder)
    assert found.config == dataclasses.replace(reader.config, tying="untied", family="mbart")
    back = dict(found.tensors())
    assert torch.equal(back["head.weight"], back["decoder.embed.weight"])


def test_decoder_and_head_that_were_trained_apart_are_both_kept(exported):
    _, folder = exported("tied_to_decoder")
    change(folder, lambda values: values["lm_head.weight"].add_(1.0))
    found = read(folder)
    assert found.config.tying == "untied"
    assert ["stay apart" in note for note in found.notes] == [True]
    back = dict(found.tensors())
    assert torch.equal(back["head.weight"], back["decoder.embed.weight"] + 1.0)


def test_the_shared_matrix_of_an_untied_model_is_dropped(exported):
    reader, folder = exported("untied")
    change(folder, lambda values: values["model.shared.weight"].zero_())
    back = dict(read(folder).tensors())
    assert torch.equal(back["encoder.embed.weight"], reader.tensor("encoder.embed.weight"))


def test_copies_in_older_files_must_be_copies(exported):
    _, folder = exported("tied")
    shared = "model.shared.weight"
    change(folder, lambda values: values.update({"lm_head.weight": values[shared].clone()}))
    assert read(folder).notes == []
    change(folder, lambda values: values["lm_head.weight"].add_(1.0))
    with pytest.raises(BadConfig, match=r"lm_head\.weight and model\.shared\.weight differ"):
        read(folder)


def test_a_tensor_we_have_no_place_for_is_refused_by_name(exported):
    _, folder = exported("encoder")
    change(folder, lambda values: values.update({"classifier.weight": torch.ones(2, 2)}))
    with pytest.raises(BadConfig, match=r"classifier\.weight"):
        read(folder)


def test_a_pooler_is_left_behind_aloud(exported):
    _, folder = exported("tied", part="encoder")
    change(folder, lambda values: values.update({"pooler.dense.weight": torch.ones(2, 2)}))
    assert any("pooler.dense.weight" in note for note in read(folder).notes)


def test_a_missing_tensor_is_named(exported):
    _, folder = exported("encoder")
    gone = "roberta_prelayernorm.encoder.layer.1.output.dense.bias"
    change(folder, lambda values: values.pop(gone))
    with pytest.raises(BadCheckpoint, match=gone):
        read(folder)


def test_a_tensor_of_another_shape_is_named(exported):
    _, folder = exported("encoder")
    change(folder, lambda values: values.update({"lm_head.bias": torch.ones(3)}))
    with pytest.raises(BadCheckpoint, match=r"lm_head\.bias has shape \(3,\)"):
        read(folder)


def test_a_bias_on_the_logits_is_refused(exported):
    _, folder = exported("untied")
    change(folder, lambda values: values["final_logits_bias"][0, 3].fill_(1.0))
    with pytest.raises(BadConfig, match="final_logits_bias"):
        read(folder)


def test_token_types_are_kept_where_they_add_something(exported):
    _, folder = exported("encoder")
    types = "roberta_prelayernorm.embeddings.token_type_embeddings.weight"
    assert "encoder.types.weight" not in dict(read(folder).tensors())
    change(folder, lambda values: values[types].fill_(0.25))
    assert torch.equal(dict(read(folder).tensors())["encoder.types.weight"], torch.full((1, 32), 0.25))
    change(folder, lambda values: values.update({types: torch.zeros(2, 32)}), type_vocab_size=2)
    assert dict(read(folder).tensors())["encoder.types.weight"].shape == (2, 32)


def test_norms_of_old_files_are_read_by_their_names_of_today(exported):
    reader, folder = exported("encoder")
    old = "roberta_prelayernorm.LayerNorm"
    change(folder, lambda values: values.update({f"{old}.gamma": values.pop(f"{old}.weight")}))
    assert torch.equal(dict(read(folder).tensors())["encoder.norm.weight"], reader.tensor("encoder.norm.weight"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model_type", "opt", "model_type 'opt'.*known: .*mbart.*roberta-prelayernorm"),
        ("model_type", "mbarts", "did you mean 'mbart'"),
        ("architectures", ["RobertaPreLayerNormForTokenClassification"], "load the model as one and save it"),
        ("hidden_size", "wide", "refused by transformers"),
    ],
)
def test_a_configuration_we_cannot_take_is_refused(exported, key, value, sentence):
    _, folder = exported("encoder")
    change(folder, **{key: value})
    with pytest.raises(BadConfig, match=sentence):
        read(folder)


def test_defaults_that_config_json_leaves_out_are_those_of_transformers(exported):
    _, folder = exported("encoder")
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read(folder).config.norm_epsilon == 1e-12


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"there is no .*config\.json"):
        read_settings(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_a_configuration_without_a_model_type_is_told_which_there_are(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadConfig, match=r"has no model_type; add the one it is of: .*roberta.*t5"):
        read_settings(tmp_path)


def test_damaged_metadata_of_ours_is_refused(exported):
    _, folder = exported("tied_to_decoder")
    (folder / "megas2s.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"megas2s\.json is damaged"):
        read(folder)
