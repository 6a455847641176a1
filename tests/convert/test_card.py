import json

import pytest
import yaml

from megas2s.convert.card import Facts, card
from megas2s.convert.source import Source, find


@pytest.fixture
def facts(small, tmp_path):
    """What is known of weights that stand alone; a test adds the run it is about."""

    def make(**changes):
        known = {
            "name": "exported",
            "part": "encoder",
            "head": True,
            "taken_out": False,
            "config": small(),
            "architecture": "RobertaPreLayerNormModel",
            "options": {"add_pooling_layer": False},
            "dtype": "float32",
            "metadata": {"stage": "mlm", "languages": "en no sw"},
            "hashes": {"weights": "ab" * 32},
            "source": Source(tmp_path, tmp_path, None, None, None),
        }
        return Facts(**{**known, **changes})

    return make


@pytest.fixture
def run(tmp_path, small, write_weights):
    folder = tmp_path / "run"
    folder.mkdir()
    stages = [{"name": "mlm"}, {"name": "seq2seq", "init": "/home/someone/mlm"}, {"name": "later"}]
    recipe = {"run": "/home/someone/run", "corpus": "/home/someone/corpus", "seed": 17, "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    for stage in ("mlm", "seq2seq"):
        write_weights(small(num_decoder_layers=int(stage == "seq2seq")), folder / stage / "weights", stage=stage)
    lines = [
        {"stage": "mlm", "kind": "train", "step": 1, "loss": 9.5, "loss/mlm": 9.5},
        {"stage": "mlm", "kind": "train", "step": 4, "loss": 7.25, "loss/mlm": 7.25},
        {"stage": "mlm", "kind": "heldout", "step": 4, "loss": 7.5, "loss/mlm/en": 7.0, "loss/mlm/sw": 8.0},
        {"stage": "seq2seq", "kind": "train", "step": 2, "loss": "nan", "loss/denoising": "nan"},
        {"stage": "later", "kind": "train", "step": 1, "loss": 1.125},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "later", "ki'
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    launches = [{"git": "old"}, {"git": "c0ffee", "packages": {"torch": "2.13.0", "deepspeed": "0.19.8"}}]
    (folder / "run.json").write_text(json.dumps(launches), encoding="utf-8")
    return folder


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_header_says_languages_and_task_and_leaves_the_licence_open(facts):
    found = header(card(facts()))
    assert found["language"] == ["en", "no", "sw"], "Norwegian is no boolean"
    assert (found["library_name"], found["pipeline_tag"]) == ("transformers", "fill-mask")
    assert "multilingual" in found["tags"]
    assert "license" not in found


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "fill_token"),
        ({"head": False}, "RobertaPreLayerNormModel.from_pretrained("),
        ({"head": False}, ", add_pooling_layer=False)"),
        ({"head": False, "architecture": "T5EncoderModel", "options": {}}, 'T5EncoderModel.from_pretrained("'),
        ({"part": "seq2seq"}, "AutoModelForSeq2SeqLM"),
    ],
)
def test_loading_is_shown_for_what_it_is(facts, changes, shown):
    shown = {"fill_token": 'pipeline("fill-mask"'}.get(shown, shown)
    assert shown in card(facts(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"taken_out": True}, "This is the encoder of a sequence-to-sequence model"),
        ({"metadata": {"mlm_head": "random"}}, "What these weights were converted from had no head"),
        ({"architecture": "T5EncoderModel"}, "It was trained by masked language modelling; the head is not here"),
    ],
)
def test_an_encoder_without_a_head_says_why(facts, changes, said):
    text = card(facts(head=False, **changes))
    assert said in text
    assert ("sequence-to-sequence" in text) == ("taken_out" in changes)


def test_what_was_trained_elsewhere_is_not_claimed(facts):
    """An import has no stage, unless it is one of our own exports come back."""
    ours, theirs = card(facts()), card(facts(metadata={"tokenizer": "ab"}))
    assert "pretrained with megas2s, from stage `mlm`." in ours
    assert "converted with megas2s; how it was trained, these weights do not say." in theirs
    assert "pretrained" not in theirs
    assert "safety training" in ours
    assert "safety training" not in theirs
    assert header(theirs)["tags"] == ["megas2s", "encoder"]


def test_an_encoder_that_writes_says_how_and_who_decodes_it(facts):
    text = card(
        facts(metadata={"stage": "pseudo_masked", "objective": "pseudo_masked", "labels": "[]", "method": "{}"})
    )
    assert "fine-tuned with megas2s, by the method `pseudo_masked`." in text
    assert "It writes: fine-tuned by the method `pseudo_masked`" in text
    assert "megas2s decodes it so; transformers loads the encoder that it is" in text
    assert 'AutoModel.from_pretrained("exported"' in text
    assert header(text)["tags"] == ["megas2s", "fine-tuning", "encoder"]
    assert "pipeline_tag" not in header(text), "no pipeline of transformers decodes it"


def test_parameters_are_those_of_the_file(facts, small):
    config = small(vocab_size=512, hidden_size=32, ffn_size=48, num_encoder_layers=0 + 1, max_positions=24)
    body = 512 * 32 + 24 * 32 + 64 + 4 * (32 * 32 + 32) + 64 + 32 * 48 + 48 + 48 * 32 + 32 + 64 + 64
    head = 512 + 32 * 32 + 32 + 64
    assert f"| parameters | {body + head:,} |" in card(facts(config=config))
    assert f"| parameters | {body:,} |" in card(facts(config=config, head=False))


def test_losses_are_the_last_ones_of_the_stages_up_to_this_one(facts, run):
    text = card(facts(source=find(run / "seq2seq")))
    assert "| `mlm` | training | 4 | 7.2500 |" in text
    assert "| `mlm` | held-out | 4 | 7.5000 |" in text
    assert "| `seq2seq` | training | 2 | nan |" in text
    assert "| mlm | sw | 8.0000 |" in text
    assert "1.1250" not in text


def test_a_checkpoints_losses_end_at_its_step(facts, run):
    early = find(run / "mlm")._replace(step=2)
    text = card(facts(source=early))
    assert "| `mlm` | training | 1 | 9.5000 |" in text
    assert "7.2500" not in text
    assert "at step 2" in text


def test_the_recipe_is_there_without_the_folders_it_lay_in(facts, run):
    text = card(facts(source=find(run)))
    assert "seed: 17" in text
    assert "someone" not in text


def test_a_recipe_of_a_task_is_there_without_the_folders_either(facts, run):
    data = {"train": {"en": "/home/someone/train.jsonl"}, "dev": "/home/someone/dev.jsonl", "columns": {"text": "src"}}
    task = {"run": "/home/someone/run", "init": "/home/someone/weights", "method": {"name": "mlm"}, "data": data}
    (run / "recipe.yaml").write_text(yaml.safe_dump(task))
    shown = yaml.safe_load(card(facts(source=find(run))).split("```yaml\n")[1].split("```")[0])
    data = {"train": {"en": "train.jsonl"}, "dev": "dev.jsonl", "columns": {"text": "src"}}
    assert shown == {"run": "run", "init": "weights", "method": {"name": "mlm"}, "data": data}


def test_provenance_names_hashes_code_and_versions(facts, run):
    text = card(facts(source=find(run)))
    assert "ab" * 32 in text
    assert "`c0ffee`" in text
    assert "| deepspeed | 0.19.8 |" in text


def test_what_is_not_known_has_no_section(facts):
    text = card(facts(metadata={}))
    assert "language" not in header(text)
    for section in ("## Losses", "## Recipe", "## Training data"):
        assert section not in text


def test_the_corpus_is_summed_up_where_it_is_at_hand(facts, run, corpus_folder):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "corpus": str(corpus_folder)}))
    text = card(facts(source=find(run)))
    assert header(text)["language"] == ["ar", "en", "sw", "zh"]
    described = json.loads((corpus_folder / "corpus.json").read_text())
    english = [shard for shard in described["splits"]["train"] if shard["language"] == "en"]
    row = f"| en | {sum(s['documents'] for s in english):,} | {sum(s['tokens'] for s in english):,} |"
    assert row in text
