"""The loader: the same samples in the same order whatever the layout, from any step at once, padded as promised."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megas2s.data.loader import Columns, Loader, Samples, _Packed, collate, sample_numbers
from megas2s.data.mixture import Mixture, Sampling
from megas2s.data.shards import ShardEntry
from megas2s.data.windows import units
from megas2s.errors import BadData, Refusal
from megas2s.labels import IGNORED

LANGUAGES = ["de", "en", "sw"]
WINDOW = 8
FULL = Columns(WINDOW, WINDOW, True, 1)


def open_tokens(shard: ShardEntry) -> np.ndarray:
    """Ids that say which language they come from: 1000 and up for de, 2000 for en, 3000 for sw."""
    base = 1000 * (1 + LANGUAGES.index(shard.language))
    return base + np.arange(shard.tokens, dtype=np.uint16) % 1000


def reverse_some(tokens: np.ndarray, rng: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    """Noise that shows the randomness it got."""
    row = tokens.astype(np.int64)
    return {"input_ids": row[::-1] if rng.random() < 0.5 else row, "labels": rng.integers(100, size=WINDOW)}


def cut_short(tokens, rng, number):
    return {"input_ids": tokens[: 1 + number % WINDOW].astype(np.int64), "labels": tokens[:2].astype(np.int64)}


def die_at(number_of_death, tokens, rng, number):
    if number == number_of_death:
        os.kill(os.getpid(), signal.SIGKILL)
    return reverse_some(tokens, rng, number)


def refuse_at(bad_number, tokens, rng, number):
    if number == bad_number:
        raise BadData("shard x is damaged; restore it")
    return reverse_some(tokens, rng, number)


@pytest.fixture
def make_samples():
    def make(corrupt=reverse_some, *, columns=FULL, seed=17, stage="mlm"):
        sizes = {"de": 900, "en": 4000, "sw": 70}
        entries = [
            ShardEntry(
                path=Path(name),
                language=name,
                source="web",
                documents=1,
                tokens=size,
                bytes=0,
                sha256="",
                fingerprint="",
            )
            for name, size in sizes.items()
        ]
        found = units(entries, WINDOW, open_tokens)
        shares = Sampling().shares({(unit.language, unit.source): unit.tokens for unit in found})
        counts = [len(unit.windows) for unit in found]
        names, languages = [unit.name for unit in found], [unit.language for unit in found]
        mixture = Mixture(names, counts, shares, languages=languages, seed=seed, stage=stage)
        return Samples(mixture, found, corrupt, columns, languages=LANGUAGES, seed=seed, stage=stage)

    return make


@pytest.fixture
def make_loader(make_samples):
    def make(samples=None, *, rows=24, micro_batch=4, **layout):
        return Loader((samples or make_samples()).batch, rows=rows, micro_batch=micro_batch, **layout)

    return make


def flat(steps):
    """Every row of some steps as (sample, language, ids, labels), in the order they came."""
    return [
        (int(sample), int(language), tuple(ids.tolist()), tuple(labels.tolist()))
        for step in steps
        for batch in step
        for sample, language, ids, labels in zip(
            batch["sample"], batch["language"], batch["input_ids"], batch["labels"], strict=True
        )
    ]


@given(step=st.integers(0, 10**12), micro_batch=st.integers(1, 5), ranks=st.integers(1, 6), rounds=st.integers(1, 4))
def test_ranks_and_micro_batches_share_a_step_out(step, micro_batch, ranks, rounds):
    rows = micro_batch * ranks * rounds
    shares = [
        sample_numbers(step, rows=rows, micro_batch=micro_batch, rank=rank, world_size=ranks) for rank in range(ranks)
    ]
    in_turn = [number for share in zip(*shares, strict=True) for block in share for number in block]
    assert in_turn == list(range(step * rows, (step + 1) * rows))
    assert {len(block) for share in shares for block in share} == {micro_batch}


def test_a_step_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="10 rows do not divide into micro-batches of 4 on 2 ranks"):
        sample_numbers(0, rows=10, micro_batch=4, rank=0, world_size=2)


def test_samples_do_not_depend_on_ranks_micro_batches_or_workers(make_loader):
    alone = flat(make_loader(micro_batch=24).steps(0, 4))
    assert [row[0] for row in alone] == list(range(96))
    for ranks, micro_batch, workers in [(1, 3, 0), (4, 3, 0), (2, 12, 0), (2, 4, 2), (1, 8, 1)]:
        layout = {"micro_batch": micro_batch, "workers": workers, "world_size": ranks}
        shared = [flat(make_loader(rank=rank, **layout).steps(0, 4)) for rank in range(ranks)]
        assert sorted(itertools.chain(*shared)) == alone
        assert flat(make_loader(rank=0, **layout).steps(0, 4)) == shared[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_step_is_reached_at_once_and_is_the_one_it_would_have_been(make_loader, workers):
    straight = flat(make_loader().steps(0, 6))
    assert flat(make_loader(workers=workers).steps(4, 6)) == straight[4 * 24 :]
    far = make_loader(workers=workers).steps(10_000_000)
    assert [row[0] for row in flat([next(far)])] == list(range(240_000_000, 240_000_024))


def test_rows_carry_the_language_of_their_window(make_loader):
    rows = flat(make_loader().steps(0, 10))
    assert {language for _, language, _, _ in rows} == {0, 1, 2}
    assert all(ids[0] // 1000 == language + 1 for _, language, ids, _ in rows)


def test_noise_belongs_to_the_sample_the_seed_and_the_stage(make_samples):
    first = make_samples().batch(range(40))["labels"]
    assert (make_samples().batch(range(20, 40))["labels"] == first[20:]).all()
    for other in ({"seed": 18}, {"stage": "seq2seq"}):
        assert (make_samples(**other).batch(range(40))["labels"] != first).any(dim=1).all()


def test_padded_rows_have_a_mask_and_end_in_padding(make_samples):
    batch = make_samples(cut_short, columns=Columns(10, 3, False, 1)).batch(range(8))
    lengths = torch.arange(8) + 1
    assert batch["attention_mask"].tolist() == [[1] * n + [0] * (10 - n) for n in lengths.tolist()]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
    assert (batch["input_ids"][batch["attention_mask"] == 1] >= 1000).all()
    assert (batch["labels"][:, 2] == IGNORED).all()
    assert all(values.dtype == torch.int64 for values in batch.values())


def test_full_rows_have_no_mask(make_samples):
    assert set(make_samples().batch(range(4))) == {"input_ids", "labels", "language", "sample"}


def test_rows_that_are_not_as_full_as_promised_are_an_error():
    with pytest.raises(ValueError, match="input_ids has 3 entries, the batch has 4 columns"):
        collate([{"input_ids": np.arange(3)}], Columns(4, 0, True, 1))


def test_a_second_view_has_a_mask_of_its_own():
    examples = [
        {"input_ids": np.arange(length), "second_input_ids": np.arange(length + 1), "encoder_labels": np.zeros(length)}
        for length in (2, 3)
    ]
    batch = collate(examples, Columns(source=4, target=0, full=False, pad=9))
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch["second_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["second_input_ids"][0].tolist() == [0, 1, 2, 9]
    assert batch["encoder_labels"][0].tolist() == [0, 0, IGNORED, IGNORED]


def test_numbers_that_are_not_whole_travel_beside_ids():
    batch = {"ids": torch.tensor([[1 << 60, 3]]), "numbers": torch.tensor([0.1], dtype=torch.float64)}
    unpacked = _Packed.pack(batch).unpack()
    assert unpacked["ids"].tolist() == [[1 << 60, 3]]
    assert unpacked["numbers"].tolist() == [0.1]


def test_fields_without_a_column_keep_their_own_length():
    examples = [{"input_ids": np.arange(4), "labels": np.arange(2), "component": np.array(n)} for n in (0, 1)]
    batch = collate(examples, Columns(4, 0, True, 1))
    assert batch["labels"].shape == (2, 2)
    assert batch["component"].tolist() == [0, 1]


def test_samples_travel_to_a_spawned_process(make_samples):
    samples = make_samples()
    expected = samples.batch(range(8))["labels"]
    assert (pickle.loads(pickle.dumps(samples)).batch(range(8))["labels"] == expected).all()


def test_waiting_for_batches_is_counted(make_samples):
    def slow(numbers):
        time.sleep(0.05)
        return make_samples().batch(numbers)

    loader = Loader(slow, rows=4, micro_batch=2)
    list(loader.steps(0, 2))
    assert loader.wait_seconds >= 0.2


def test_a_worker_that_dies_is_named(make_loader, make_samples):
    loader = make_loader(make_samples(functools.partial(die_at, 30)), workers=1)
    with pytest.raises(Refusal, match=r"loader process \d+ \(signal 9\) died; .*lower `workers`"):
        list(loader.steps(0, 8))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_in_a_worker_arrives_as_its_one_sentence(make_loader, make_samples, workers):
    loader = make_loader(make_samples(functools.partial(refuse_at, 30)), workers=workers)
    with pytest.raises(BadData) as caught:
        list(loader.steps(0, 8))
    assert str(caught.value) == "shard x is damaged; restore it"
