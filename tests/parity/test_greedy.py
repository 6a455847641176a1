"""Greedy decoding writes what transformers' own does, token for token, whatever the padding."""

from __future__ import annotations

import pytest
import torch

from megas2s.convert import hf
from megas2s.convert.importing import incoming
from megas2s.generate.greedy import greedy

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


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_equals_transformers(kind: str, tmp_path):
    case, eos = CASES[kind], KINDS[kind]
    theirs = case.make()
    with torch.no_grad():  # random norms would add the same to every state, and every row would write one token
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.fill_(float(name.endswith("weight")))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = ours_of(incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))).eval()
    batch = inputs(case)
    theirs.generation_config.forced_bos_token_id = theirs.generation_config.forced_eos_token_id = None
    start = theirs.config.decoder_start_token_id if case.pad == 0 else eos
    expected = theirs.generate(
        **batch,
        num_beams=1,
        do_sample=False,
        max_length=LENGTH + 1,  # theirs counts the token that the decoder starts from
        decoder_start_token_id=start,
        eos_token_id=eos,
        pad_token_id=case.pad,
    )[:, 1:]
    found = greedy(ours, batch, start=start, eos=eos, pad=case.pad, length=LENGTH)
    padded = torch.full_like(found, case.pad)
    padded[:, : expected.shape[1]] = expected
    assert torch.equal(found, padded)
    assert len(set(found.flatten().tolist())) > 3
