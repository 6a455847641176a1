"""The mixture: shares, exact quotas, no starvation, each window once an epoch, all at any size."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.data.mixture import SMALLEST_BLOCK, WHOLE, Draw, Mixture, Quotas, Sampling, integer_shares
from megas2s.errors import BadConfig
from megas2s.spec import parse

TRILLION = 10**12
CORPUS = {("en", "web"): 9 * TRILLION // 10, ("hi", "web"): TRILLION // 10, ("ta", "web"): 40_000}
corpora = st.lists(st.lists(st.integers(1, TRILLION), min_size=1, max_size=8), min_size=1, max_size=20).map(
    lambda languages: {
        (f"l{i}", f"s{j}"): size for i, sources in enumerate(languages) for j, size in enumerate(sources)
    }
)


def fractions(shares):
    return [share / WHOLE for share in shares]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(1.0, [0.9, 0.1, 4e-8]), (0.0, [1 / 3] * 3), (0.5, [0.74985, 0.24995, 0.000158])],
)
def test_languages_share_in_proportion_to_their_tokens_to_the_alpha(alpha, expected):
    assert fractions(Sampling(alpha=alpha).shares(CORPUS)) == pytest.approx(expected, rel=2e-3)


def test_a_weight_changes_its_language_through_alpha_and_its_source_inside_the_language_in_proportion():
    tokens = {("en", "web"): 300, ("en", "wiki"): 100, ("fr", "web"): 100}
    plain, weighted = (fractions(Sampling(weights=w).shares(tokens)) for w in ({}, {"wiki": 13.0}))
    assert plain == pytest.approx([0.5, 1 / 6, 1 / 3])  # sqrt(400) : sqrt(100), then 3 : 1
    assert weighted == pytest.approx([0.8 * 3 / 16, 0.8 * 13 / 16, 0.2])  # sqrt(1600) : sqrt(100), then 3 : 13


@given(masses=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=200))
def test_integer_shares_sum_to_the_whole_and_leave_nobody_out(masses):
    shares = integer_shares(masses)
    assert sum(shares) == WHOLE
    assert min(shares) >= 1


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(BadConfig, match=r"alpha must lie in \[0, 1\]"):
        parse(Sampling, {"alpha": alpha}, source="recipe")


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(BadConfig, match="the weight of source 'web' must be above 0"):
        parse(Sampling, {"weights": {"web": 0}}, source="recipe")


def test_a_weight_for_an_unknown_source_names_the_nearest():
    with pytest.raises(BadConfig, match="no source 'wikipedia'; did you mean 'wiki'"):
        Sampling(weights={"wikipedia": 2.0}).shares({("en", "wiki"): 5, ("en", "web"): 5})


def quotas_of(tokens, alpha):
    return Quotas(Sampling(alpha=alpha).shares(tokens), 0, groups=[language for language, _ in tokens])


@given(tokens=corpora, alpha=st.floats(0, 1), blocks=st.integers(0, 10**9))
def test_after_any_number_of_blocks_languages_and_sources_are_within_one_sample_of_their_shares(tokens, alpha, blocks):
    quotas = quotas_of(tokens, alpha)
    dealt = quotas.dealt(blocks)
    assert sum(dealt) == blocks * quotas.block
    excess = Counter()
    for (language, _), count, share in zip(tokens, dealt, quotas.shares, strict=True):
        over = count * WHOLE - blocks * quotas.block * share
        assert abs(over) < WHOLE
        excess[language] += over
    assert all(abs(over) < WHOLE for over in excess.values())


@given(tokens=corpora, alpha=st.floats(0, 1), blocks=st.integers(0, 10**9))
def test_counts_never_fall_and_nobody_starves(tokens, alpha, blocks):
    quotas = quotas_of(tokens, alpha)
    early, late, later = (quotas.dealt(blocks + more) for more in (0, 1, 2))
    assert all(a <= b for a, b in zip(early, late, strict=True))
    assert all(a < b for a, b in zip(early, later, strict=True))  # two blocks hold at least one sample of each


def test_a_block_is_what_its_quotas_say_and_its_order_is_shuffled():
    quotas = Quotas(integer_shares([0.7, 0.2, 0.1]), 3, "mlm")
    turns = [quotas[n] for n in range(5 * quotas.block)]
    for block in range(6):
        seen = Counter(turn.part for turn in turns[: block * quotas.block])
        assert [seen[part] for part in range(3)] == quotas.dealt(block)
    runs = [len(list(group)) for _, group in itertools.groupby(turn.part for turn in turns)]
    assert max(runs) < 40  # in order they would be hundreds


def test_a_part_counts_its_own_samples_without_a_gap():
    quotas = Quotas(integer_shares([0.6, 0.4]), 3)
    turns = [quotas[n] for n in range(3 * SMALLEST_BLOCK)]
    for part in (0, 1):
        mine = sorted(turn.k for turn in turns if turn.part == part)
        assert mine == list(range(quotas.dealt(3)[part]))


@pytest.fixture
def make_mixture():
    def make(seed=17, stage="mlm", windows=(100, 30), shares=(WHOLE // 2, WHOLE // 2)):
        return Mixture(["en/web", "fr/web"], windows, shares, languages=["en", "fr"], seed=seed, stage=stage)

    return make


def test_each_window_is_read_once_per_epoch(make_mixture):
    mixture = make_mixture()
    whole_blocks = 30 * mixture.quotas.block  # 15360 samples of each: 512 epochs of fr, 153.6 of en
    seen = Counter(mixture[n] for n in range(whole_blocks))
    assert {seen[Draw(1, window)] for window in range(30)} == {512}
    assert {seen[Draw(0, window)] for window in range(100)} == {153, 154}
    assert mixture.epochs(whole_blocks) == [153.6, 512.0]


def test_sources_of_a_language_share_what_it_is_due():
    """Five equal sources each round the same way where nothing holds them together: 1024 samples, 3.4 for each."""
    names = [f"l{n // 5}/s{n % 5}" for n in range(300)]
    languages = [name.split("/")[0] for name in names]
    mixture = Mixture(names, [10**9] * 300, integer_shares([1.0] * 300), languages=languages, seed=1, stage="mlm")
    for blocks in range(1, 8):
        samples = blocks * mixture.quotas.block
        drawn = Counter(languages[mixture[n].unit] for n in range(samples))
        assert {abs(60 * drawn[language] - samples) < 60 for language in languages} == {True}


def test_epochs_differ_in_order(make_mixture):
    mixture = make_mixture(windows=(2000, 30))
    first, second = ([mixture._order((0, epoch))[k] for k in range(2000)] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_sample_is_a_pure_function_of_its_number(make_mixture):
    forwards = make_mixture()
    expected = [forwards[n] for n in range(4000)]
    backwards = make_mixture()
    assert [backwards[n] for n in reversed(range(4000))] == expected[::-1]
    travelled = pickle.loads(pickle.dumps(forwards))
    assert [travelled[n] for n in range(4000)] == expected


@pytest.mark.parametrize("other", [{"seed": 18}, {"stage": "seq2seq"}])
def test_seed_and_stage_each_give_an_order_of_their_own(make_mixture, other):
    assert [make_mixture()[n] for n in range(200)] != [make_mixture(**other)[n] for n in range(200)]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_a_corpus_of_a_trillion_tokens_is_sampled_at_any_number_without_an_index(alpha):
    windows = [max(1, tokens // 511) for tokens in CORPUS.values()]
    names = ["en", "hi", "ta"]
    shares = Sampling(alpha=alpha).shares(CORPUS)
    mixture = Mixture(names, windows, shares, languages=names, seed=1, stage="mlm")
    for n in (0, 10**6, 10**9, 10**12, 10**15):
        drawn = [mixture[n + i] for i in range(50)]
        assert all(0 <= draw.window < windows[draw.unit] for draw in drawn)
        assert len(set(drawn)) == 50 or alpha < 1  # a small language repeats within its epochs
    assert len(pickle.dumps(mixture)) < 200_000


def test_a_unit_without_windows_is_refused(make_mixture):
    with pytest.raises(ValueError, match="every unit needs a window"):
        make_mixture(windows=(100, 0))
