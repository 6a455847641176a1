"""What is written, greedily and by beams, is what transformers' `generate` writes, token for token."""

from __future__ import annotations

import pytest
import torch
import transformers

from megas2s import generate
from megas2s.convert import hf
from megas2s.convert.importing import incoming
from megas2s.decoding.beam import Power, power
from megas2s.decoding.rules import Rules
from megas2s.decoding.search import greedy

from .cases import CASES, inputs, ours_of

KINDS = {
    "bart": 2,
    "mbart": 2,
    "mbart_untied": 2,
    "t5_1_0": 1,
    "t5_1_1": 1,
    "t5_wide_heads": 1,
}  # the id that ends a row
LENGTH = 12
BOUNDS = {
    "free": ({}, {}),
    "bound": (
        {"min_length": 5, "ngram": 2, "prefix": 9, "ends": True},
        {"min_length": 6, "no_repeat_ngram_size": 2, "forced_bos_token_id": 9, "forced_eos_token_id": True},
    ),
}
BEAMS = [Power(1), Power(4), Power(4, penalty=0.0), Power(3, penalty=2.0, early=True, best=2)]
BEAMS += [Power(3, penalty=-1.0, best=3), Power(4, penalty=1.5, early="never", best=2)]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Their model and ours, and a batch; the kind of both."""
    kind = request.param
    case, folder = CASES[kind], tmp_path_factory.mktemp(kind)
    theirs = case.make()
    with torch.no_grad():  # random norms would add the same to every state, and every row would write one token
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.fill_(float(name.endswith("weight")))
    theirs.save_pretrained(folder)
    ours = ours_of(incoming(folder, hf.read_settings(folder))).eval()
    theirs.generation_config.forced_bos_token_id = theirs.generation_config.forced_eos_token_id = None
    start = theirs.config.decoder_start_token_id if case.pad == 0 else KINDS[kind]
    return kind, theirs, ours, inputs(case), Rules(start, KINDS[kind], case.pad, LENGTH, from_start=True)


def expected(theirs, batch, rules: Rules, **settings) -> torch.Tensor:
    if settings.pop("forced_eos_token_id", False):
        settings["forced_eos_token_id"] = rules.eos
    found = theirs.generate(
        **batch,
        do_sample=False,
        max_length=LENGTH + 1,  # theirs counts the token that the decoder starts from
        decoder_start_token_id=rules.start,
        eos_token_id=rules.eos,
        pad_token_id=rules.pad,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    padded = torch.full((len(found.sequences), LENGTH), rules.pad)
    padded[:, : found.sequences.shape[1] - 1] = found.sequences[:, 1:]
    ended = (padded == rules.eos).cumsum(dim=1) - (padded == rules.eos).long() > 0
    padded[ended] = rules.pad  # theirs fills with the end where the id of padding is 0
    return padded, getattr(found, "sequences_scores", None)


def bound(rules: Rules, batch, changes: dict) -> Rules:
    changes = dict(changes)
    if "prefix" in changes:
        changes["prefix"] = torch.full((len(batch["input_ids"]), 1), changes["prefix"])
    return rules._replace(**changes)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_greedy_decoding_equals_transformers(pair, bounds):
    _, theirs, ours, batch, rules = pair
    changes, settings = BOUNDS[bounds]
    found = greedy(ours, batch, bound(rules, batch, changes)).ids[:, 0]
    assert torch.equal(found, expected(theirs, batch, rules, num_beams=1, **settings)[0])
    assert len(set(found.flatten().tolist())) > 3


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("how", BEAMS, ids=lambda how: f"{how.beams}-{how.penalty}-{how.early}")
def test_beams_equal_transformers_tokens_and_scores(pair, how, bounds):
    _, theirs, ours, batch, rules = pair
    changes, settings = BOUNDS[bounds]
    found = power(ours, batch, bound(rules, batch, changes), how)
    if how.beams == 1:
        settings = {**settings, "num_beams": 1}
    ids, scores = expected(
        theirs,
        batch,
        rules,
        **{
            "num_beams": how.beams,
            "length_penalty": how.penalty,
            "early_stopping": how.early,
            "num_return_sequences": how.best,
            **settings,
        },
    )
    assert torch.equal(found.ids.flatten(0, 1), ids)
    if scores is not None:
        torch.testing.assert_close(found.scores.flatten(), scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bart", "mbart"])
def test_a_folder_of_transformers_writes_with_the_tokens_that_it_forces(kind, tmp_path, small_tokenizer):
    """generation_config.json of a published BART forces its first and last tokens; nobody has to say so."""
    case = CASES[kind]
    theirs = case._replace(settings={**case.settings, "vocab_size": 500}).make()
    library, roles = small_tokenizer("roberta")
    theirs.generation_config.update(forced_bos_token_id=0, forced_eos_token_id=2, decoder_start_token_id=2)
    theirs.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, **roles).save_pretrained(tmp_path)
    model = generate.load(tmp_path, method="seq2seq", length=20, target_length=LENGTH)
    assert model.forced == (0, True)
    source = {"input_ids": torch.tensor([[0, 20, 30, 40, 2]])}
    for beams in (1, 3):
        found = theirs.generate(**source, num_beams=beams, do_sample=False, max_length=LENGTH + 1, eos_token_id=2)
        example = {"input_ids": source["input_ids"][0].numpy()}
        ((_, ours),) = model.answer([example], [0], generate.Decoding(beams=beams))
        expected = found[0, 1:].tolist()
        assert list(ours.answers[0].ids) == expected[: expected.index(2) + 1]
