import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from megas2s import files
from megas2s.errors import BadCheckpoint, BadConfig, BadData
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import save_weights
from megas2s.tokenizer.load import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TOOL = "tools/convert_to_hf.py"


@pytest.fixture(scope="session")
def run(corpus_folder, tmp_path_factory):
    """A run with a complete encoder stage and a checkpoint of a seq2seq stage, as training leaves them."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    recipe = {"run": str(folder), "corpus": str(corpus_folder), "stages": [{"name": "mlm"}, {"name": "seq2seq"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    vocabulary = Tokenizer.load(corpus_folder / "tokenizer").vocabulary
    sizes = {"vocab_size": vocabulary.size, "hidden_size": 16, "num_heads": 2, "ffn_size": 24, "max_positions": 32}
    encoder = ModelConfig(**sizes, num_encoder_layers=2)
    seq2seq = ModelConfig(**sizes, num_encoder_layers=2, num_decoder_layers=1, tying="tied_to_decoder")
    write(encoder, vocabulary, folder / "mlm" / "weights")
    files.publish(files.temporary_folder(folder / "mlm" / "weights"), folder / "mlm" / "weights", {})
    checkpoint = folder / "seq2seq" / "checkpoints" / "step_00000010"
    temporary = files.temporary_folder(checkpoint)
    write(seq2seq, vocabulary, temporary / "weights")
    files.temporary_folder(temporary / "weights").rename(temporary / "weights")
    files.write_json(temporary / "state.json", {"state": {"step": 10, "tokens": 1, "skipped": 0}})
    files.publish(temporary, checkpoint, {"kind": "checkpoint"})
    return folder


def write(config, vocabulary, folder):
    with seeded(3, folder.parent.name):
        model = build(config)
    tensors = ((name, value.detach()) for name, value in canonical_parameters(model).items())
    metadata = {"tokenizer": vocabulary.fingerprint, "stage": folder.parent.name}
    save_weights(files.temporary_folder(folder), tensors, config=config, metadata=metadata)


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the tool's `main` with arguments, in this process; gives what it printed."""
    main = runpy.run_path(str(ROOT / TOOL))["main"]

    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", [TOOL, *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return run_main


def test_help_comes_without_heavy_imports(script):
    code = f"import runpy, sys; sys.argv = [{TOOL!r}, '--help']\ntry: runpy.run_path({TOOL!r}, run_name='__main__')\n"
    code += "except SystemExit: print('loaded', sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    done = script("-c", code)
    assert "--no-check" in done.stdout
    assert "loaded []" in done.stdout


def test_a_run_is_exported_checked_and_then_reused(script, run, tmp_path):
    done = script(TOOL, run, tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "RobertaPreLayerNormForMaskedLM, float32" in done.stdout
    assert "reloaded with transformers: logits differ from ours by at most" in done.stdout
    assert "| `mlm`" not in (tmp_path / "out" / "README.md").read_text(), "there is no metrics.jsonl to quote"
    stamp = (tmp_path / "out" / "config.json").stat().st_mtime_ns
    again = script(TOOL, run, tmp_path / "out")
    assert "nothing to do" in again.stdout
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == stamp


def test_a_checkpoint_is_exported_in_shards_of_the_given_size(call, run, tmp_path):
    checkpoint = run / "seq2seq" / "checkpoints" / "step_00000010"
    printed = call(checkpoint, tmp_path / "out", "--dtype", "bfloat16", "--shard-size", "60KB")
    assert "at step 10: MBartForConditionalGeneration, bfloat16" in printed
    assert "losses by" in printed
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 2
    held = [load_file(path) for path in shards]
    assert all(len(each) == 1 or sum(tensor.nbytes for tensor in each.values()) <= 60_000 for each in held)
    assert {tensor.dtype for each in held for tensor in each.values()} == {torch.bfloat16}


def test_the_encoder_part_says_that_it_has_no_head(call, run, tmp_path):
    checkpoint = run / "seq2seq" / "checkpoints" / "step_00000010"
    printed = call(checkpoint, tmp_path / "out", "--part", "encoder")
    assert "RobertaPreLayerNormModel" in printed
    assert "without a head for masked language modelling" in printed
    assert "states differ from ours by at most" in printed


def test_another_export_is_replaced_only_when_told(call, run, tmp_path):
    call(run / "mlm", tmp_path / "out", "--no-check")
    with pytest.raises(BadConfig, match="another export; add --overwrite"):
        call(run / "mlm", tmp_path / "out", "--no-check", "--dtype", "float16")
    printed = call(run / "mlm", tmp_path / "out", "--no-check", "--dtype", "float16", "--overwrite")
    assert "not reloaded (--no-check)" in printed


def test_a_dry_run_writes_nothing(call, run, tmp_path):
    assert "would write" in call(run, tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_stage_is_refused_with_a_sentence(script, run, tmp_path):
    done = script(TOOL, run / "seq2seq", tmp_path / "out")
    assert done.returncode == BadCheckpoint.exit_code
    assert "is not complete; its newest checkpoint is" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(call, run, corpus_folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((corpus_folder / "tokenizer" / name).read_bytes())
    with pytest.raises(BadData, match="not the one these weights were trained with"):
        call(run, tmp_path / "out", "--tokenizer", other)


@pytest.mark.parametrize("size", ["5XB", "0", "GB"])
def test_a_size_that_is_none_is_refused(call, run, tmp_path, size):
    with pytest.raises(BadConfig, match="--shard-size"):
        call(run, tmp_path / "out", "--shard-size", size)
