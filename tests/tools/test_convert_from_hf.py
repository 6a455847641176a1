import dataclasses

import pytest
import torch
import transformers

from megas2s import files
from megas2s.errors import BadConfig, BadData
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights
from megas2s.tokenizer.load import Tokenizer

TO, FROM = "tools/convert_to_hf.py", "tools/convert_from_hf.py"


@pytest.fixture
def weights(corpus_folder, tmp_path):
    """Published random weights of a model whose decoder and head are one."""
    vocabulary = Tokenizer.load(corpus_folder / "tokenizer").vocabulary
    config = ModelConfig(
        vocab_size=vocabulary.size,
        hidden_size=16,
        num_heads=2,
        ffn_size=24,
        num_encoder_layers=2,
        num_decoder_layers=1,
        max_positions=32,
        tying="tied_to_decoder",
    )
    with seeded(3, "weights"):
        model = build(config)
    folder = tmp_path / "weights"
    tensors = ((name, value.detach()) for name, value in canonical_parameters(model).items())
    metadata = {"tokenizer": vocabulary.fingerprint, "stage": "seq2seq"}
    save_weights(files.temporary_folder(folder), tensors, config=config, metadata=metadata)
    files.publish(files.temporary_folder(folder), folder, {"kind": "weights"})
    return folder


def test_there_and_back_through_the_tools_is_bitwise(script, call, weights, corpus_folder, tmp_path):
    call(TO, weights, tmp_path / "hub", "--tokenizer", corpus_folder / "tokenizer", "--no-check")
    done = script(FROM, tmp_path / "hub", tmp_path / "back")
    assert done.returncode == 0, done.stdout
    assert "1 decoder layers, tied_to_decoder" in done.stdout
    before, after = open_weights(weights), open_weights(tmp_path / "back")
    assert (dataclasses.replace(before.config, family=after.config.family), before.metadata) == (
        after.config,
        after.metadata,
    )
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names)
    files.verify(tmp_path / "back")
    assert Tokenizer.load(tmp_path / "back" / "tokenizer").fingerprint == before.metadata["tokenizer"]


def test_imported_weights_are_exported_with_the_tokenizer_that_came_along(call, weights, corpus_folder, tmp_path):
    call(TO, weights, tmp_path / "hub", "--tokenizer", corpus_folder / "tokenizer", "--no-check")
    call(FROM, tmp_path / "hub", tmp_path / "back")
    call(TO, tmp_path / "back", tmp_path / "again", "--no-check")
    names = [path.name for path in (tmp_path / "hub").iterdir() if path.suffix in (".safetensors", ".model")]
    assert sorted(names) == ["model.safetensors", "spiece.model"]
    for name in (*names, "config.json", "tokenizer.json", "megas2s.json"):
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_only_what_was_imported_is_replaced_and_only_when_told(call, weights, corpus_folder, tmp_path):
    call(TO, weights, tmp_path / "hub", "--tokenizer", corpus_folder / "tokenizer", "--no-check")
    call(FROM, tmp_path / "hub", tmp_path / "back", "--no-tokenizer")
    assert not (tmp_path / "back" / "tokenizer").exists()
    with pytest.raises(BadConfig, match="exists; add --overwrite"):
        call(FROM, tmp_path / "hub", tmp_path / "back")
    call(FROM, tmp_path / "hub", tmp_path / "back", "--overwrite")
    assert (tmp_path / "back" / "tokenizer").exists()
    (tmp_path / "file").touch()
    for other in (weights, tmp_path / "file"):
        with pytest.raises(BadConfig, match="holds no imported weights of ours, so it is not replaced"):
            call(FROM, tmp_path / "hub", other, "--overwrite")


@pytest.fixture
def bart(small_tokenizer, tmp_path):
    """A BART of transformers with a table of 500 rows; gives its folder with a tokenizer of one id more, `<late>`."""

    def make(*, special):
        library, roles = small_tokenizer("roberta")
        (library.add_special_tokens if special else library.add_tokens)(["<late>"])
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **roles)
        tokenizer.save_pretrained(tmp_path / "theirs")
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
        settings = transformers.BartConfig(vocab_size=500, max_position_embeddings=32, **sizes, **ids)
        transformers.BartForConditionalGeneration(settings).save_pretrained(tmp_path / "theirs")
        return tmp_path / "theirs"

    return make


def test_special_tokens_beyond_the_model_s_table_are_left_behind_aloud(call, bart, tmp_path):
    """As of bart-large-cnn, whose `<mask>` has no row."""
    said = call(FROM, bart(special=True), tmp_path / "out")
    assert "note: the model's table has 500 rows and none for <late>; the tokenizer goes on without" in said
    assert Tokenizer.load(tmp_path / "out" / "tokenizer").vocabulary.size == 500
    files.verify(tmp_path / "out")


def test_what_an_import_takes_for_granted_is_said(script, bart, tmp_path):
    folder = bart(special=True)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    done = script(FROM, folder, tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "does not name these, they are taken by their usual names: pad_token <pad>, eos_token </s>" in done.stdout


def test_text_beyond_the_model_s_table_is_refused(call, bart, tmp_path):
    with pytest.raises(BadData, match="has 501 ids and pad 1, the model 500 and pad 1; they do not belong together"):
        call(FROM, bart(special=False), tmp_path / "out")


def test_a_folder_of_another_family_is_refused_with_a_sentence(script, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    done = script(FROM, tmp_path, tmp_path / "out")
    assert done.returncode == BadConfig.exit_code
    assert "model_type 'opt'" in done.stdout
    assert "Traceback" not in done.stdout


def test_help_comes_without_heavy_imports(script):
    code = f"import runpy, sys; sys.argv = [{FROM!r}, '--help']\ntry: runpy.run_path({FROM!r}, run_name='__main__')\n"
    code += "except SystemExit: print('loaded', sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    done = script("-c", code)
    assert "--no-tokenizer" in done.stdout
    assert "loaded []" in done.stdout
