"""Source and target in one row: what transformers' encoders give for the same row, told by a mask who sees whom."""

from __future__ import annotations

import pytest
import torch

from megas2s.convert import hf
from megas2s.convert.importing import incoming

from .cases import CASES, Case, ours_of
from .packing import WRITTEN, batch, packed

KINDS = ("bert", "roberta", "roberta_two_types", "xlm_roberta", "roberta_prelayernorm", "electra", "electra_base")


def expected(theirs: torch.nn.Module, case: Case, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits at the last block, of the class that is handed its mask, positions and types."""
    first = case.pad + 1 if "Roberta" in case.kind else 0
    types = row["token_type_ids"] if theirs.config.type_vocab_size > 1 else torch.zeros_like(row["token_type_ids"])
    theirs.set_attn_implementation("eager")
    output = theirs(**{**row, "position_ids": row["position_ids"] + first, "token_type_ids": types})
    return output.logits[:, -WRITTEN:]


@torch.no_grad()
@pytest.mark.parametrize("shape", ["target", "pseudo", "spans"])
@pytest.mark.parametrize("name", KINDS)
def test_a_packed_row_has_the_logits_of_transformers_under_the_square_mask(name: str, shape: str, tmp_path):
    case = CASES[name]
    theirs = case.make()
    theirs.save_pretrained(tmp_path / "theirs")
    model = ours_of(incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs")))
    given = batch(case, pseudo=shape != "target", spans=shape == "spans")
    logits = model.logits(model(given).encoder_hidden)
    reference = expected(theirs, case, packed(given))
    assert reference.abs().max() > 0.1
    torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0)
