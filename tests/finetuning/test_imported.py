"""Models of others, with tokenizers of their own: imported, taught to write, written with, and gone back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers

from megas2s import generate
from megas2s.models.loading import filled
from megas2s.models.weights import open_weights
from tests.backbones import BART, BERT, T5, save_pretrained
from tests.runs import THREE_STEPS, Finished
from tests.small_tokenizers import TEXT

ROBERTA = {**BERT, "type_vocab_size": 1}
ENCODERS = {
    "bert": ("bert", "BertForMaskedLM", BERT, "pseudo_masked"),
    "roberta": ("roberta", "RobertaForMaskedLM", ROBERTA, "causal"),
    "xlm-roberta": ("xlm-roberta", "XLMRobertaForMaskedLM", ROBERTA, "masked"),
}
PAIRS = {
    "bart": ("roberta", "BartForConditionalGeneration", BART, "seq2seq"),
    "t5": ("t5", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, "seq2seq"),
}
KINDS = ENCODERS | PAIRS
LINES = [line for line in Path(TEXT).read_text(encoding="utf-8").splitlines() if line][:24]
TWO = ["The train to the coast leaves at seven.", "A small house."]
LONGEST = 12  # tokens of an answer
GREEDY, BEAMS = generate.Decoding(), generate.Decoding(beams=3)


class Taught(NamedTuple):
    """A published kind of model, imported and taught for three steps."""

    imported: Path
    theirs: transformers.PreTrainedTokenizerFast
    run: Finished
    method: str

    @property
    def weights(self) -> Path:
        return self.run.folder / self.method / "weights"


@pytest.fixture(scope="module")
def made() -> dict[str, Taught]:
    """What the tests of this file share."""
    return {}


@pytest.fixture
def taught(made, call, tune_here, tmp_path_factory) -> Callable[[str], Taught]:
    """`taught("bert")`: a kind as transformers saves it, brought here by the tool, and taught."""

    def make(kind: str) -> Taught:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            tokenizer, architecture, sizes, method = KINDS[kind]
            save_pretrained(folder / "theirs", tokenizer=tokenizer, kind=architecture, sizes=sizes)
            call("tools/convert_from_hf.py", folder / "theirs", folder / "imported")
            run = tune_here(recipe(folder, method, str))
            theirs = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
            made[kind] = Taught(folder / "imported", theirs, run, method)
        return made[kind]

    return make


def recipe(folder: Path, method: str, cut: Callable[[str], str | list[str]], *, imported: Path | None = None) -> dict:
    """Three steps of writing down how lines begin; `cut` makes of a text what records have for it."""
    records = [{"src": cut(line), "tgt": cut(" ".join(line.split()[:4]))} for line in LINES]
    (folder / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = dict.fromkeys(("train", "test"), str(folder / "lines.jsonl"))
    return {
        "run": str(folder / "run"),
        "init": str(imported or folder / "imported"),
        "method": {"name": method},
        "data": {**lines, "columns": {"text": "src", "label": "tgt"}},
        "length": 32,
        "target_length": LONGEST,
        **THREE_STEPS,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_others_is_taught_and_writes(kind: str, taught):
    """Its answers are read as its own tokenizer reads them."""
    found = taught(kind)
    before, after = open_weights(found.imported), open_weights(found.weights)
    still = [name for name in before.names if torch.equal(before.tensor(name), after.tensor(name))]
    assert all(name.endswith("attention.k.bias") for name in still), "rounding alone moves those"
    model = generate.load(found.run.folder)
    for how in (GREEDY, BEAMS):
        for (answer,) in model.write(TWO, how):
            assert answer.text == found.theirs.decode(answer.ids, skip_special_tokens=True)
            assert len(answer.ids) <= LONGEST
    line = json.loads((found.run.folder / "answers" / "test.jsonl").read_text().splitlines()[0])
    assert line["source"] == LINES[0]


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_that_writes_goes_back_as_what_it_was(kind: str, taught, call, tmp_path):
    """Without code of ours; and the folder writes here what the run does."""
    found = taught(kind)
    call("tools/convert_to_hf.py", found.run.folder, tmp_path / "out")
    body = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=False).eval()
    assert type(body).__name__ == KINDS[kind][1].replace("ForMaskedLM", "Model")
    rows = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(TWO, return_tensors="pt", padding=True)
    assert torch.equal(rows["input_ids"], found.theirs(TWO, return_tensors="pt", padding=True)["input_ids"])
    reader, real = open_weights(found.weights), rows["attention_mask"].bool()
    with torch.no_grad():
        ours = filled(reader.config, reader.tensor).encode(rows["input_ids"], attention_mask=rows["attention_mask"])
        torch.testing.assert_close(body(**rows).last_hidden_state[real], ours[real], atol=1e-4, rtol=0)
    assert generate.load(tmp_path / "out").write(TWO, BEAMS) == generate.load(found.run.folder).write(TWO, BEAMS)


@pytest.mark.parametrize("kind", PAIRS)
def test_an_encoder_decoder_that_goes_back_writes_there_what_it_writes_here(kind: str, taught, call, tmp_path):
    found = taught(kind)
    call("tools/convert_to_hf.py", found.run.folder, tmp_path / "out")
    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", trust_remote_code=False).eval()
    model = generate.load(found.run.folder)
    for how in (GREEDY, BEAMS):
        for text, (answer,) in zip(TWO, model.write(TWO, how), strict=True):
            rows = found.theirs(text, return_tensors="pt", return_token_type_ids=False)
            theirs = network.generate(**rows, num_beams=how.beams, do_sample=False, max_new_tokens=LONGEST)
            assert theirs[0, 1:].tolist() == list(answer.ids)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pieces_as_transformers_cuts_them_are_the_texts_that_they_are_of(kind: str, taught, tune_here, tmp_path):
    found = taught(kind)
    cut = found.theirs.tokenize
    again = tune_here(recipe(tmp_path, found.method, cut, imported=found.imported))
    assert again.bits(found.method) == found.run.bits(found.method)
    model = generate.load(found.run.folder)
    assert model.write([cut(text) for text in TWO], BEAMS) == model.write(TWO, BEAMS)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_answers_of_a_tokenizer_of_others_begin_as_told_and_repeat_what_may_be_repeated(kind: str, taught):
    """No token comes twice but for a stop, of which there are two in what answers begin with."""
    found, begins = taught(kind), "the house. And."
    theirs, model = found.theirs, generate.load(found.run.folder)
    prefix, stop = theirs(begins, add_special_tokens=False).input_ids, theirs.convert_tokens_to_ids(".")
    room = {"min_length": len(prefix) + 4, "max_length": len(prefix) + 8}
    how = generate.Decoding(beams=3, no_repeat_ngram=1, ignored_words=(".",), prefix=begins, **room)
    assert how.rules(model.method, model.facts, math.inf).ignored == (stop,)
    for (answer,) in model.write(TWO, how):
        assert list(answer.ids[: len(prefix)]) == prefix
        assert answer.text.startswith(theirs.decode(prefix))
        once = [token for token in answer.ids if token != stop]
        assert len(once) == len(set(once))


def test_a_word_that_is_another_token_behind_a_space_is_ignored_in_both_places(taught):
    model = generate.load(taught("roberta").run.folder)
    theirs = taught("roberta").theirs
    ignored = generate.Decoding(ignored_words=("and",)).rules(model.method, model.facts, math.inf).ignored
    assert {"and", "Ġand"} <= set(theirs.convert_ids_to_tokens(list(ignored)))
