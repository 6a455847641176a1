import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megas2s.convert import tensors
from megas2s.convert.names import Derived, Entry
from megas2s.convert.tensors import HubTensors, shards, write
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.files import read_json

VALUES = {f"t{number}": torch.arange(rows * 4.0).view(rows, 4) + number for number, rows in enumerate((3, 5, 40, 2, 2))}
PLAN = [Entry(f"theirs.{name}", name, tuple(value.shape)) for name, value in VALUES.items()]


def test_files_hold_at_most_the_given_size_and_a_larger_tensor_has_its_own():
    sizes = [[entry.shape[0] * 16 for entry in shard.entries] for shard in shards(PLAN, torch.float32, shard_bytes=128)]
    assert sizes == [[48, 80], [640], [32, 32]]


def test_one_file_carries_the_plain_name_and_needs_no_index(tmp_path):
    write(tmp_path, shards(PLAN, torch.float32, shard_bytes=1 << 20), torch.float32, VALUES.__getitem__)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_reads_what_was_written(tmp_path, dtype):
    plan = shards(PLAN, dtype, shard_bytes=128)
    write(tmp_path, plan, dtype, VALUES.__getitem__)
    where = read_json(tmp_path / tensors.INDEX)
    found = {name: tensor for shard in plan for name, tensor in load_file(tmp_path / shard.name).items()}
    assert found.keys() == where["weight_map"].keys() == {entry.theirs for entry in PLAN}
    assert where["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    for name, tensor in VALUES.items():
        assert torch.equal(found[f"theirs.{name}"], tensor.to(dtype))
        assert torch.equal(HubTensors(tmp_path).tensor(f"theirs.{name}"), tensor.to(dtype))


def test_leading_rows_and_what_we_do_not_have_are_zeros(tmp_path):
    plan = [Entry("table", "t0", (5, 4), leading=2), Entry("buffer", None, (1, 7))]
    write(tmp_path, shards(plan, torch.float32, shard_bytes=1 << 20), torch.float32, VALUES.__getitem__)
    found = load_file(tmp_path / tensors.SINGLE)
    assert torch.equal(found["table"], torch.cat([torch.zeros(2, 4), VALUES["t0"]]))
    assert torch.equal(found["buffer"], torch.zeros(1, 7))


def test_one_tensor_is_held_at_a_time(tmp_path):
    given = []

    def value(name):
        assert all(reference() is None for reference in given), "an earlier tensor is still in memory"
        tensor = VALUES[name].clone()
        given.append(weakref.ref(tensor))
        return tensor

    write(tmp_path, shards(PLAN, torch.float32, shard_bytes=1 << 20), torch.float32, value)
    assert len(given) == len(PLAN)


def test_values_beyond_float16_are_refused_by_name(tmp_path):
    plan = [Entry("theirs", "ours", (1,))]
    with pytest.raises(BadConfig, match=r"ours has values beyond float16.*bfloat16"):
        write(tmp_path, shards(plan, torch.float16, shard_bytes=99), torch.float16, lambda _: torch.tensor([1e6]))


def test_a_tensor_of_another_shape_than_planned_is_refused(tmp_path):
    plan = [Entry("theirs", "t0", (4, 4))]
    with pytest.raises(BadCheckpoint, match=r"t0 has shape \(3, 4\)"):
        write(tmp_path, shards(plan, torch.float32, shard_bytes=99), torch.float32, VALUES.__getitem__)


def test_a_folder_without_safetensors_says_how_to_get_them(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"gguf")
    with pytest.raises(BadConfig, match="saving it again"):
        HubTensors(tmp_path)


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    plan = shards(PLAN, torch.float32, shard_bytes=128)
    write(tmp_path, plan, torch.float32, VALUES.__getitem__)
    (tmp_path / plan[1].name).write_bytes(b"x" * 20)
    with pytest.raises(BadCheckpoint, match=plan[1].name):
        HubTensors(tmp_path).tensor("theirs.t2")
    (tmp_path / plan[1].name).unlink()
    with pytest.raises(BadCheckpoint, match=f"{plan[1].name}, which is missing"):
        HubTensors(tmp_path)


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"t0"', "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"t0": 3}}']
)
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / tensors.INDEX).write_text(content)
    with pytest.raises(BadCheckpoint, match=r"safetensors\.index\.json is damaged; download it again"):
        HubTensors(tmp_path)


def test_tensors_in_another_layout_are_read_by_the_names_of_this_one(tmp_path):
    rows = torch.arange(12.0).view(6, 2)
    save_file({"body.both": rows, "table": torch.eye(3)}, tmp_path / "model.safetensors")
    hub = HubTensors(tmp_path, body="body.")
    first = Derived("body.both", lambda both: both[:2])
    hub.derive(
        {"one": first, "body.other": Derived("both", lambda both: both[2:]), "table": Derived("table", torch.neg)}
    )
    assert hub.names == {"one", "other", "table"}
    assert (hub.shape("one"), hub.shape("body.other")) == ((2, 2), (4, 2))
    assert torch.equal(torch.cat([hub.tensor("body.one"), hub.tensor("other")]), rows)
    assert torch.equal(hub.tensor("table"), -torch.eye(3))
    assert hub.stored("other") == "body.both"
    with pytest.raises(BadCheckpoint, match=r"has no tensor gone, which its config\.json calls for"):
        hub.derive({"third": Derived("gone", torch.neg)})
    with pytest.raises(BadCheckpoint, match=r"has body\.both and table, which holds it too"):
        hub.derive({"one": Derived("table", torch.neg)})


def test_equality_is_bit_for_bit_over_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "ROWS", 3)
    one = torch.randn(10, 4)
    other = one.clone()
    other[9, 3] += 1e-6
    save_file(
        {"one": one, "same": one.clone(), "other": other, "longer": torch.randn(11, 4)}, tmp_path / "model.safetensors"
    )
    hub = HubTensors(tmp_path)
    assert hub.same("one", "same")
    assert not hub.same("one", "other")
    assert not hub.same("one", "longer")


def test_pickled_weights_are_read_only_when_allowed_and_give_the_same_tensors(tmp_path):
    torch.save(VALUES, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadConfig, match=r"pytorch_model\.bin alone: pickled files can run code.*--allow-pickle"):
        HubTensors(tmp_path)
    hub = HubTensors(tmp_path, allow_pickle=True)
    assert hub.names == VALUES.keys()
    for name, value in VALUES.items():
        assert torch.equal(hub.tensor(name), value)
        assert hub.shape(name) == tuple(value.shape)
    assert hub.same("t0", "t0")
    assert not hub.same("t3", "t4")


class Canary:
    """Unpickled, it runs code."""

    def __reduce__(self):
        return Path.write_text, (Path("canary"), "sang")


@pytest.mark.parametrize("inside", [{"t0": Canary()}, [torch.zeros(1)], {"t0": 3}])
def test_a_pickle_with_more_than_tensors_runs_nothing(tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    torch.save(inside, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"more than tensors|no dictionary of tensors"):
        HubTensors(tmp_path, allow_pickle=True)
    assert not (tmp_path / "canary").exists()


def test_safetensors_are_preferred_to_pickled_weights(tmp_path):
    save_file({"t0": VALUES["t0"]}, tmp_path / "model.safetensors")
    torch.save({"t0": VALUES["t0"] + 1}, tmp_path / "pytorch_model.bin")
    assert torch.equal(HubTensors(tmp_path, allow_pickle=True).tensor("t0"), VALUES["t0"])


@pytest.mark.parametrize("twice", [("body.t0", "t0"), ("norm.gamma", "norm.weight")])
def test_two_names_of_one_tensor_are_refused(tmp_path, twice):
    save_file({name: torch.ones(2) for name in twice}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=f"{twice[0]} and {twice[1]}, two names of one tensor"):
        HubTensors(tmp_path, body="body.")
