import dataclasses
import json
import resource
import signal
import weakref

import pytest
import torch
from safetensors.torch import save_file

from megas2s.errors import BadCheckpoint, BadConfig, DiskTrouble
from megas2s.files import publish, temporary_folder
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters, owners, parameter_shapes
from megas2s.models.transformer import build
from megas2s.models.weights import INDEX, MODEL, hand_off, open_weights, save_weights, start_from

ENCODER = ModelConfig(
    vocab_size=40, hidden_size=16, num_heads=2, ffn_size=24, num_encoder_layers=2, max_positions=16, dropout=0.0
)
TYINGS = ["tied", "tied_to_decoder", "untied"]
BATCH = {"input_ids": torch.arange(5, 23).view(2, 9), "decoder_input_ids": torch.arange(5, 19).view(2, 7)}
FACTS = {"tokenizer": "abc", "step": "12"}


def seq2seq(tying="tied", **changes):
    return dataclasses.replace(ENCODER, **{"num_decoder_layers": 2, "tying": tying, **changes})


def made(config, seed=1):
    with seeded(seed, "init"):
        return build(config).eval()


def write(model, folder, **options):
    temporary = temporary_folder(folder)
    save_weights(temporary, canonical_parameters(model).items(), config=model.config, metadata=FACTS, **options)
    publish(temporary, folder, {"kind": "weights"})
    return open_weights(folder)


def handed_over(source, target_config, folder, **choices):
    """A new model of another seed that begins from `source`."""
    target = made(target_config, seed=2)
    initial = hand_off(write(source, folder), target_config, **choices)
    with torch.no_grad():
        for name, parameter in canonical_parameters(target).items():
            if (value := initial(name)) is not None:
                parameter.copy_(value)
    return target


@pytest.mark.parametrize("shard_bytes", [1, 4000, 1 << 30])
@pytest.mark.parametrize("tying", TYINGS)
def test_there_and_back_is_bitwise_whatever_the_shards(tmp_path, tying, shard_bytes):
    model = made(seq2seq(tying))
    reader = write(model, tmp_path / "weights", shard_bytes=shard_bytes)
    assert reader.config == model.config
    assert reader.metadata == FACTS
    assert reader.names == list(parameter_shapes(model.config))
    for name, parameter in canonical_parameters(model).items():
        assert torch.equal(reader.tensor(name), parameter)
    shards = list((tmp_path / "weights").glob("model-*.safetensors"))
    assert len(shards) == {1: len(reader.names), 1 << 30: 1}.get(shard_bytes, len(shards))
    assert all(shard.stat().st_size < shard_bytes + 4000 for shard in shards if shard_bytes == 4000)
    assert (tmp_path / "weights" / "model-00001.safetensors").is_file()


def test_the_stream_may_reuse_its_memory_and_any_dtype_is_kept(tmp_path):
    model = made(ENCODER).bfloat16()
    buffer = torch.empty(40 * 16, dtype=torch.bfloat16)

    def stream():
        for name, parameter in canonical_parameters(model).items():
            view = buffer[: parameter.numel()].view(parameter.shape)
            view.copy_(parameter.detach())
            yield name, view

    save_weights(tmp_path / ".tmp-w", stream(), config=ENCODER, metadata={})
    publish(tmp_path / ".tmp-w", tmp_path / "w", {})
    reader = open_weights(tmp_path / "w")
    for name, parameter in canonical_parameters(model).items():
        assert reader.tensor(name).dtype == torch.bfloat16
        assert torch.equal(reader.tensor(name), parameter)


def test_a_shard_is_let_go_before_the_next_tensor_is_asked_for(tmp_path, monkeypatch):
    saved, held = set(), []

    def watched_save(shard, path, metadata):
        save_file(shard, path, metadata=metadata)
        for name, tensor in shard.items():
            saved.add(name)
            weakref.finalize(tensor, saved.discard, name)

    def stream():
        for name, shape in parameter_shapes(ENCODER).items():
            held.append(set(saved))
            yield name, torch.zeros(shape)

    monkeypatch.setattr("megas2s.models.weights.save_file", watched_save)
    save_weights(tmp_path, stream(), config=ENCODER, metadata={}, shard_bytes=3000)
    assert len(list(tmp_path.glob("model-*"))) > 3
    assert not any(held)


@pytest.mark.parametrize("fault", ["missing", "twice", "shape", "unknown"])
def test_anything_but_each_parameter_once_is_a_bug(tmp_path, fault):
    tensors = [(name, torch.zeros(shape)) for name, shape in parameter_shapes(ENCODER).items()]
    faulty = {
        "missing": tensors[1:],
        "twice": [*tensors, tensors[0]],
        "shape": [(tensors[0][0], torch.zeros(3)), *tensors[1:]],
        "unknown": [*tensors, ("encoder.extra", torch.zeros(1))],
    }[fault]
    for shard_bytes in (1, 1 << 30):
        with pytest.raises(ValueError, match=r"not a parameter|not given|given twice"):
            save_weights(tmp_path, faulty, config=ENCODER, metadata={}, shard_bytes=shard_bytes)


def test_unfinished_or_damaged_weights_are_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match="holds no finished weights"):
        open_weights(tmp_path)
    folder = tmp_path / "weights"
    write(made(ENCODER), folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].pop("encoder.norm.bias")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match="does not list the parameters"):
        open_weights(folder)
    (folder / MODEL).write_text('{"config": {"vocab_size": 3}, "metadata": {}}')
    with pytest.raises(BadCheckpoint, match="damaged"):
        open_weights(folder)


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    folder = tmp_path / "weights"
    reader = write(made(ENCODER), folder)
    shard = folder / "model-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match=r"model-00001\.safetensors cannot be read"):
        reader.tensor("encoder.norm.bias")


def test_a_full_disk_is_told_from_a_bug(tmp_path):
    tensors = [(name, torch.zeros(shape)) for name, shape in parameter_shapes(ENCODER).items()]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(DiskTrouble, match=r"no room to write .*model-00001\.safetensors"):
            save_weights(tmp_path, tensors, config=ENCODER, metadata={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("decoder_embeddings", ["copied", "random"])
@pytest.mark.parametrize("tying", TYINGS)
def test_an_encoder_becomes_half_of_an_encoder_decoder(tmp_path, tying, decoder_embeddings):
    source = made(ENCODER)
    target = handed_over(source, seq2seq(tying), tmp_path / "w", decoder_embeddings=decoder_embeddings)
    fresh = canonical_parameters(made(seq2seq(tying), seed=2))
    assert torch.equal(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))
    for role in ("decoder.embed.weight", "head.weight"):
        copied = torch.equal(target.get_parameter(role), source.encoder.embed.weight)
        assert copied == (decoder_embeddings == "copied" or tying == "tied")
    for name, parameter in canonical_parameters(target).items():
        if name.startswith("decoder.") and name not in owners(target.config).values():
            assert torch.equal(parameter, fresh[name]), name


def test_copied_matrices_are_apart_from_the_encoders():
    model = made(seq2seq("untied"))
    matrices = [model.encoder.embed.weight, model.decoder.embed.weight, model.head.weight]
    assert len({matrix.data_ptr() for matrix in matrices}) == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *((tying, tying) for tying in TYINGS),
        ("tied", "tied_to_decoder"),
        ("tied", "untied"),
        ("tied_to_decoder", "untied"),
    ],
)
def test_an_encoder_decoder_goes_on_as_itself_also_with_matrices_untied(tmp_path, before, after):
    source = made(seq2seq(before))
    target = handed_over(source, seq2seq(after), tmp_path / "w")
    ours, theirs = target(BATCH), source(BATCH)
    assert torch.equal(ours.encoder_hidden, theirs.encoder_hidden)
    assert torch.equal(target.logits(ours.decoder_hidden), source.logits(theirs.decoder_hidden))


@pytest.mark.parametrize(
    ("before", "after"), [("untied", "tied"), ("untied", "tied_to_decoder"), ("tied_to_decoder", "tied")]
)
def test_separate_matrices_cannot_become_one(before, after):
    with pytest.raises(BadCheckpoint, match=f"choose tying: {before}, or start from the encoder alone"):
        start_from(seq2seq(before), seq2seq(after))
    assert start_from(seq2seq(before), seq2seq(after), part="encoder")["encoder.norm.bias"] == "encoder.norm.bias"


@pytest.mark.parametrize("tying", TYINGS)
def test_the_encoder_of_an_encoder_decoder_can_be_extracted(tmp_path, tying):
    source = made(seq2seq(tying))
    target = handed_over(source, ENCODER, tmp_path / "w")
    assert torch.equal(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))
    sources = start_from(source.config, ENCODER)
    assert {name for name, origin in sources.items() if origin is None} == {
        name for name in parameter_shapes(ENCODER) if name.startswith("mlm.")
    }


def test_an_encoder_goes_on_with_its_head_unless_only_the_encoder_is_wanted():
    assert all(name == origin for name, origin in start_from(ENCODER, ENCODER).items())
    assert start_from(ENCODER, ENCODER, part="encoder")["mlm.bias"] is None


def test_the_encoder_alone_can_be_taken_into_a_new_encoder_decoder():
    deeper = seq2seq("untied", num_decoder_layers=5)
    sources = start_from(seq2seq("untied"), deeper, part="encoder")
    assert sources["decoder.embed.weight"] == sources["head.weight"] == "encoder.embed.weight"
    assert sources["decoder.layers.0.ffn.up.weight"] is None
    assert sources["decoder.positions.weight"] is None


def test_a_longer_table_of_positions_is_cut_and_a_shorter_one_refused(tmp_path):
    shorter = dataclasses.replace(ENCODER, max_positions=10)
    source = made(ENCODER)
    target = handed_over(source, shorter, tmp_path / "w")
    assert torch.equal(target.encoder.positions.weight, source.encoder.positions.weight[:10])
    with pytest.raises(
        BadCheckpoint, match="have 10 positions, the new model wants 16; set max_positions to 10 or less"
    ):
        start_from(shorter, ENCODER)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 48), ("hidden_size", 32), ("num_heads", 4), ("ffn_size", 32), ("num_encoder_layers", 3),
     ("num_decoder_layers", 3), ("activation", "relu"), ("norm_epsilon", 1e-12)],
)  # fmt: skip
def test_another_shape_is_refused_with_the_two_values(field, value):
    theirs = getattr(seq2seq(), field)
    with pytest.raises(BadCheckpoint, match=f"have {field} {theirs}, the new model {value}; set {field} to {theirs}"):
        start_from(seq2seq(), seq2seq(**{field: value}))


def test_random_embeddings_for_a_decoder_that_is_there_already_are_refused():
    with pytest.raises(BadConfig, match="embeddings: random is how a new decoder starts, and init: brings one"):
        start_from(seq2seq(), seq2seq("untied"), decoder_embeddings="random")
