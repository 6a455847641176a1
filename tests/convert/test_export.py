import json
import resource

import pytest
import torch

from megas2s import files
from megas2s.convert.export import export, shape
from megas2s.convert.tensors import HubTensors
from megas2s.errors import BadCheckpoint, BadConfig, DiskTrouble
from megas2s.models.weights import open_weights
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import stand_in

VOCABULARY = stand_in(640)


def test_a_folder_is_published_whole(tmp_path, small, write_weights, stored, tokenizer_folder):
    reader = write_weights(small(num_decoder_layers=1), tmp_path / "weights")
    difference = export(reader, stored, tmp_path / "out", card="# A card\n", record={"from": "here"})
    assert difference is not None
    assert max(difference) <= 1e-5
    assert files.verify(tmp_path / "out")["from"] == "here"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "README.md", "megas2s.json"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"}
    assert Tokenizer.load(tmp_path / "out").fingerprint == stored.fingerprint
    assert not files.temporary_folder(tmp_path / "out").exists()


def test_the_tokenizer_learns_how_long_a_row_may_be(tmp_path, small, write_weights, stored):
    export(write_weights(small(max_positions=19), tmp_path / "weights"), stored, tmp_path / "out", check=False)
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 19


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_and_configuration_have_the_dtype_asked_for(tmp_path, small, write_weights, stored, dtype):
    reader = write_weights(small(), tmp_path / "weights")
    wanted = getattr(torch, dtype)
    difference = export(reader, stored, tmp_path / "out", dtype=wanted)
    assert difference.values <= 1e-5, "rounding to the dtype is no difference between the two models"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    hub = HubTensors(tmp_path / "out")
    assert {hub.tensor(name).dtype for name in hub.names} == {wanted}


def test_the_encoder_of_a_seq2seq_model_is_exported_without_a_head(small):
    seq2seq = small(num_decoder_layers=1, tying="untied")
    assert shape(seq2seq, None, VOCABULARY).architecture == "MBartForConditionalGeneration"
    assert shape(seq2seq, "encoder", VOCABULARY).architecture == "RobertaPreLayerNormModel"
    assert shape(small(), None, VOCABULARY).architecture == "RobertaPreLayerNormForMaskedLM"


def test_a_head_that_nobody_trained_is_not_exported(small):
    assert shape(small(), None, VOCABULARY, head=False).architecture == "RobertaPreLayerNormModel"


def test_an_encoder_has_no_seq2seq_part(small):
    with pytest.raises(BadConfig, match=r"without a decoder.*--part encoder"):
        shape(small(), "seq2seq", VOCABULARY)


def test_a_foreign_folder_is_never_replaced(tmp_path, small, write_weights, stored):
    reader = write_weights(small(), tmp_path / "weights")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadConfig, match="holds no hugging face export of ours"):
        export(reader, stored, tmp_path / "precious", check=False)
    with pytest.raises(BadConfig, match="holds no hugging face export of ours"):
        export(reader, stored, tmp_path / "weights", check=False)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_an_export_whose_manifest_is_damaged_is_named_and_stays(tmp_path, small, write_weights, stored):
    reader = write_weights(small(), tmp_path / "weights")
    export(reader, stored, tmp_path / "out", check=False)
    (tmp_path / "out" / files.MANIFEST).write_text('{"kind": "hugging face ex')
    with pytest.raises(BadCheckpoint, match=r"out/MANIFEST\.json is damaged; restore it from a copy, or remove .*out"):
        export(reader, stored, tmp_path / "out", check=False)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_export_is_replaced(tmp_path, small, write_weights, stored):
    for name in ("first", "second"):
        reader = write_weights(small(), tmp_path / name)
        export(reader, stored, tmp_path / "out", check=False, record={"from": name})
    assert files.verify(tmp_path / "out")["from"] == "second"


@pytest.fixture
def little_room():
    """No file can grow beyond 20 kB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_export_whole(tmp_path, small, write_weights, stored, request):
    reader = write_weights(small(), tmp_path / "weights")
    export(reader, stored, tmp_path / "out", check=False)
    request.getfixturevalue("little_room")
    with pytest.raises(DiskTrouble, match=r"no room to write .*model\.safetensors"):
        export(reader, stored, tmp_path / "out", check=False)
    files.verify(tmp_path / "out")


def test_a_model_that_computes_nonsense_is_not_published(tmp_path, small, write_weights, stored):
    write_weights(small(), tmp_path / "weights")
    reader = open_weights(tmp_path / "weights")
    whole = reader.tensor
    reader.tensor = lambda name: whole(name) * (float("nan") if name == "encoder.norm.weight" else 1.0)
    with pytest.raises(BadCheckpoint, match="not finite"):
        export(reader, stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_says_something_else_than_our_model_is_not_published(tmp_path, small, write_weights, stored):
    reader = write_weights(small(), tmp_path / "weights")
    whole, read = reader.tensor, []

    def changing(name):
        read.append(name)
        return whole(name) + (0.01 if read.count(name) == 1 and name == "encoder.layers.1.ffn.up.bias" else 0.0)

    reader.tensor = changing
    with pytest.raises(BadCheckpoint, match="differs from ours by"):
        export(reader, stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_beyond_the_machines_memory_is_refused_before_anything_is_written(
    tmp_path, small, write_weights, stored, monkeypatch
):
    reader = write_weights(small(), tmp_path / "weights")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(BadConfig, match="--no-check"):
        export(reader, stored, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert export(reader, stored, tmp_path / "out", check=False) is None
