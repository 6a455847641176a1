import dataclasses

import numpy as np
import pytest

from megas2s.models.config import ModelConfig
from megas2s.models.freezing import frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.models.presets import PRESETS, preset
from megas2s.objectives.base import Shape
from megas2s.objectives.clm import CLM
from megas2s.objectives.contrast import Contrasting
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.e2s2 import E2S2
from megas2s.objectives.finding import Finding
from megas2s.objectives.mlm import MLM
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train.flops import StepSize
from megas2s.train.ledger import Work, cost, days, from_scratch, peak_flops, saving, step_size, training_units

SEQ2SEQ = ModelConfig(
    vocab_size=1024, hidden_size=1024, num_heads=16, ffn_size=4096, num_encoder_layers=12, num_decoder_layers=12,
    tying="tied_to_decoder",
)  # fmt: skip
VOCABULARY = Vocabulary(
    size=1024, pad=1, eos=2, unk=3, bos=0, mask=4, doc=5, clm=6, languages={}, sentinels=(),
    ordinary=np.arange(7, 1024, dtype=np.int32), word_starts=np.ones(1024, dtype=bool),
    sentence_ends=np.zeros(1024, dtype=bool), fingerprint="",
)  # fmt: skip


def work(config: ModelConfig, steps: int, *, freeze: tuple[str, ...] = (), batch_tokens: int = 1 << 20) -> Work:
    target = 512 if config.is_seq2seq else 0
    size = StepSize(rows=batch_tokens // 512, source=512, target=target, predicted=target or 77)
    return Work(
        name="stage",
        shapes=parameter_shapes(config),
        frozen=frozenset(frozen_names(config, freeze)),
        size=size,
        batch_tokens=batch_tokens,
        steps=steps,
    )


def two_stage() -> list[Work]:
    return [
        work(SEQ2SEQ.encoder_only(), 500_000),
        work(SEQ2SEQ, 200_000, freeze=("encoder.*",)),
        work(SEQ2SEQ, 150_000),
    ]


def test_published_proportions_give_the_published_saving():
    # 5.0 + 3.8 + 3.6 = 12.4 units instead of 5.0 + 12.0 = 17.0: METHODS, section 3.2b.
    found = saving(two_stage())
    assert [training_units(each) for each in two_stage()] == pytest.approx([5.0, 3.8, 3.6])
    assert found.recipe.units == pytest.approx(12.4)
    assert found.scratch.units == pytest.approx(17.0)
    assert round(100 * found.units) == 27


def test_units_grow_with_depth_width_and_batch_and_a_shallow_decoder_is_cheap():
    narrow = ModelConfig(
        vocab_size=1024, hidden_size=512, num_heads=8, ffn_size=2048, num_encoder_layers=6, num_decoder_layers=2
    )
    # Half the depth and a quarter of the matrices: 1/8; decoder 1.4 * 2/12 * 1/4; both on half the batch.
    expected = 0.5 * (1 / 8 + 1.4 / 24)
    assert training_units(work(narrow, 100_000, batch_tokens=1 << 19)) == pytest.approx(expected)


def test_a_partly_frozen_stack_costs_its_layers():
    # Embeddings and 3 of 12 layers frozen: 9/12 + 0.5 * 3/12.
    names = ("encoder.embed.*", "encoder.positions.*", "encoder.embed_norm.*", "encoder.layers.[012].*")
    assert training_units(work(SEQ2SEQ.encoder_only(), 100_000, freeze=names)) == pytest.approx(0.875)


def test_the_saving_in_flops_by_hand():
    # Per row, in units of 512 tokens * 2^20 * 2 FLOPs, forward; width 1024, so scores and mixture cost 1 per layer.
    encoder = 12 * (12 + 1)  # 12 D^2 of matrices
    decoder = 12 * (16 + 1 + 1)
    output = 1  # 1024 entries at every target position
    masked_head = 2 * 77 / 512  # dense layer and vocabulary at 77 positions
    mlm = 3 * (encoder + masked_head)
    seq2seq = 3 * (encoder + decoder + output)
    frozen = encoder + 3 * (decoder + output) - 12 * 2  # nobody wants the gradient that keys and values pass down
    expected = 1 - (500 * mlm + 200 * frozen + 150 * seq2seq) / (500 * mlm + 500 * seq2seq)
    found = saving(two_stage())
    assert found.flops == pytest.approx(expected, rel=1e-12)
    assert found.flops == pytest.approx(0.296, abs=0.0005)


def test_from_scratch_trains_both_models_as_long_as_the_recipe_trains_its_first():
    encoder, seq2seq = from_scratch(two_stage())
    assert (encoder.steps, seq2seq.steps) == (500_000, 500_000)
    assert not seq2seq.frozen
    assert (encoder.is_seq2seq, seq2seq.is_seq2seq) == (False, True)
    backwards = [work(SEQ2SEQ, 300_000), work(SEQ2SEQ, 100_000), work(SEQ2SEQ.encoder_only(), 50_000)]
    assert [each.steps for each in from_scratch(backwards)] == [400_000, 400_000]


def test_a_recipe_for_one_kind_of_model_has_no_pair_to_compare_with():
    assert saving([work(SEQ2SEQ, 10), work(SEQ2SEQ, 10, freeze=("encoder.*",))]) is None


def test_a_stage_costs_its_steps():
    found = cost(work(SEQ2SEQ.encoder_only(), 10, batch_tokens=1024))
    # Two rows of 512: matrices 6 * 1024 * 12 * 12 * 2^20, scores 12 * 2 * 512 * 512 * 1024 * 12,
    # head 6 * 154 * 2 * 2^20; ten steps.
    assert found.tokens == 10_240
    assert found.flops == 10 * (6 * 1024 * 144 * 2**20 + 12 * 2 * 512 * 512 * 1024 * 12 + 6 * 154 * 2 * 2**20)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_price(name):
    config = preset(name, vocab_size=1024)
    found = cost(work(config if config.is_seq2seq else config.encoder_only(), 10))
    assert found.flops > 0
    assert found.units > 0


def test_a_step_sees_the_columns_and_positions_of_its_objective():
    shape = Shape(VOCABULARY, 512, 512)
    assert step_size(MLM(), shape, rows=3) == StepSize(rows=3, source=512, target=0, predicted=77)  # 15 % of 511
    # 511 tokens less 15 % and </s>; the whole window and </s>.
    assert step_size(Denoising(), shape, rows=3) == StepSize(rows=3, source=435, target=512, predicted=512)


def test_padding_is_not_predicted():
    size = step_size(CLM(), Shape(VOCABULARY, 512, 512), rows=1)
    # Prefixes of 20-80 %, uniform: half of the window is predicted, while its columns hold four fifths.
    assert size.predicted / size.target == pytest.approx(0.5 / 0.8, abs=0.08)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("h200", 989e12),
        ("cpu", None),
        ("NVIDIA A1000", None),
    ],
)
def test_a_peak_is_known_or_absent_never_guessed(name, peak):
    assert peak_flops(name) == peak


def test_a_day_is_a_day():
    assert days(864e17, gpus=2, peak=1e15, mfu=0.5) == pytest.approx(1.0)


def test_two_views_of_a_window_are_two_rows_and_their_heads_read_one():
    shape = Shape(VOCABULARY, 512, 512)
    plain, both = Denoising(), E2S2(base=Denoising(), contrast=Contrasting(group=2))
    one, two = step_size(plain, shape, rows=4), step_size(both, shape, rows=4)
    assert two == one._replace(rows=8, classed=one.source // 2, restored=two.restored)
    tokens = E2S2(base=Denoising(), contrast=None, denoise=Finding(target="token"))
    assert step_size(tokens, shape, rows=4).restored == pytest.approx(one.source * (0.15 + 0.1) / 2, rel=0.15)


def test_both_passes_are_priced_and_windows_counted_once():
    twice = dataclasses.replace(work(SEQ2SEQ, 1000), views=2)
    assert cost(twice).tokens == cost(work(SEQ2SEQ, 1000)).tokens
    assert training_units(twice) == pytest.approx(2 * training_units(work(SEQ2SEQ, 1000)))
