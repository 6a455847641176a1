import json
import resource
import signal
import weakref

import pytest
import torch
from safetensors.torch import save_file

from megas2s.errors import BadCheckpoint, DiskTrouble
from megas2s.files import publish
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.weights import INDEX, MODEL, open_weights, save_weights

from .small import ENCODER, FACTS, TYINGS, made, seq2seq, write


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
        assert torch.equal(reader.tensor(name, slice(1, 3)), parameter[1:3])
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
