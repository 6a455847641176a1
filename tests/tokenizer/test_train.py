import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from megas2s.errors import BadConfig, BadData, Refusal
from megas2s.spec import parse
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.sample import MOST_COPIES, BalancedSample
from megas2s.tokenizer.spm import PART
from megas2s.tokenizer.train import LONGEST, TokenizerSpec, train, train_tokenizer, training_lines

from .conftest import SPEC, TEXTS, documents


def test_special_tokens_have_their_fixed_ids(tokenizer):
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[DOC]", "[CLM]"]
    assert [tokenizer.piece(number) for number in range(7)] == names
    v = tokenizer.vocabulary
    assert (v.bos, v.pad, v.eos, v.unk, v.mask, v.doc, v.clm) == tuple(range(7))


def test_language_tags_follow_and_keep_room_for_more(tokenizer):
    assert tokenizer.vocabulary.languages == {language: 7 + n for n, language in enumerate(sorted(TEXTS))}
    assert tokenizer.piece(7 + len(TEXTS)) == "[reserved_0]"
    assert tokenizer.piece(7 + SPEC.language_slots) == "<0x00>"


def test_the_hundred_sentinels_are_last(tokenizer):
    v = tokenizer.vocabulary
    assert v.sentinels == tuple(range(v.size - 100, v.size))
    assert [tokenizer.piece(number) for number in (v.sentinels[0], v.sentinels[99])] == [
        "<sentinel_0>",
        "<sentinel_99>",
    ]


def test_the_vocabulary_has_the_size_asked_for_where_the_text_suffices(tokenizer, folder):
    model = ModelProto.FromString((folder / "spiece.model").read_bytes())
    assert tokenizer.vocabulary.size == len(model.pieces) == 768


def test_sums_of_scores_are_exact_in_float32(folder):
    scores = [piece.score for piece in ModelProto.FromString((folder / "spiece.model").read_bytes()).pieces]
    assert all((score * 128).is_integer() for score in scores)
    unknown = min(scores) - 10  # what SentencePiece charges for a character without a piece
    assert -unknown * PART * 128 < 2**24


def test_a_small_text_gives_a_smaller_multiple_of_128_and_a_log_line(caplog):
    spec = TokenizerSpec(vocab_size=32_768, num_threads=1, language_slots=2)
    with caplog.at_level(logging.INFO):
        stored = train([("en", TEXTS["en"]), ("en", TEXTS["en"][::-1])], spec)
    assert stored.metadata.size < 32_768
    assert stored.metadata.size % 128 == 0
    unused = [piece.piece for piece in ModelProto.FromString(stored.model).pieces if "[unused_" in piece.piece]
    assert f"the vocabulary has {stored.metadata.size}, {len(unused)} of them unused" in caplog.text


def test_the_same_documents_and_spec_give_the_same_bytes():
    spec = SPEC
    assert train(documents(), spec) == train(documents(), spec)


def test_the_thread_count_belongs_to_the_fingerprint(tokenizer):
    other = parse(TokenizerSpec, {"vocab_size": 768, "language_slots": 16, "num_threads": 2}, source="test")
    assert tokenizer.metadata.training["num_threads"] == 1
    assert train(documents(), other).fingerprint != tokenizer.fingerprint


def test_given_languages_come_first_in_their_order():
    spec = TokenizerSpec(vocab_size=768, num_threads=1, language_slots=4, languages=("sw", "en"))
    assert train(documents(), spec).metadata.languages == {"sw": 7, "en": 8}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 1000}, "vocab_size must be a positive multiple of 128, got 1000"),
        ({"alpha": 1.5}, "alpha must lie in [0, 1], got 1.5"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"languages": ["en", "en"]}, "languages names one twice: en, en"),
        ({"normalization": "nfd"}, "input should be 'nfc' or 'nfkc', found 'nfd'"),
    ],
)
def test_a_bad_setting_is_refused_with_its_value(settings, said):
    with pytest.raises(BadConfig) as refusal:
        parse(TokenizerSpec, settings, source="tokenizer")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 512}, "vocab_size 512 is too small"),
        ({"vocab_size": 768, "language_slots": 3}, "9 languages do not fit 3 language slots"),
        ({"vocab_size": 768, "languages": ["DOC"]}, "taken by the special token [DOC]"),
        ({"vocab_size": 768, "languages": ["e n"]}, "'e n' cannot be a language code"),
    ],
)
def test_settings_that_the_text_contradicts_are_refused(settings, said):
    with pytest.raises(BadConfig) as refusal:
        train(documents(), parse(TokenizerSpec, {"num_threads": 1, **settings}, source="tokenizer"))
    assert said in str(refusal.value)


def test_input_without_text_is_refused():
    with pytest.raises(BadData, match="no text"):
        train([("en", " \n\t\n")], SPEC)


def test_training_never_replaces_a_folder_that_is_no_tokenizer(tmp_path, tokenizer, folder):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadConfig, match="is no tokenizer"):
        tokenizer_folder.write(tokenizer_folder.read(folder), tmp_path, {})
    assert (tmp_path / "thesis.txt").exists()


def test_training_lines_are_cut_and_blank_ones_dropped():
    assert list(training_lines("a\n\n \nb c")) == ["a", "b c"]
    assert [len(line) for line in training_lines("x" * (2 * LONGEST + 1))] == [LONGEST, LONGEST, 1]


def sampled(lines, **settings):
    sample = BalancedSample(**{"characters": 20_000, "alpha": 0.5, "seed": 1, **settings})
    for language, line in lines:
        sample.add(language, line)
    return sample


def stream(**lines):
    """Lines of ten characters, all distinct."""
    return [(language, f"{language}{number:08d}") for language, count in lines.items() for number in range(count)]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_shares_are_characters_to_the_alpha(alpha):
    counts = {"aa": 16_000, "bb": 4_000, "cc": 1_000}
    sample = sampled(stream(**counts), alpha=alpha)
    used = Counter(language for language, _ in sample.lines())
    total = sum(count**alpha for count in counts.values())
    for language, count in counts.items():
        assert used[language] == pytest.approx(2_000 * count**alpha / total, rel=0.1)


def test_a_small_language_is_repeated_but_not_by_heart():
    used = Counter(line for _, line in sampled(stream(aa=20_000, bb=10), alpha=0.0).lines())
    copies = [count for line, count in used.items() if line.startswith("bb")]
    assert copies == [MOST_COPIES] * 10


def test_the_sample_is_what_two_passes_would_give_and_memory_stays_bounded():
    lines = stream(aa=6_000, bb=20_000, cc=500)
    small = BalancedSample(characters=5_000, alpha=0.5, seed=3)
    most = 0
    for language, line in lines:
        small.add(language, line)
        most = max(most, small._held_characters)
    unhurried = BalancedSample(characters=5_000, alpha=0.5, seed=3)
    unhurried._drop = lambda: None
    for language, line in lines:
        unhurried.add(language, line)
    assert list(small.lines()) == list(unhurried.lines())
    assert most <= 2 * 5_000 + 10


def test_another_seed_gives_another_sample():
    lines = stream(aa=10_000)
    assert list(sampled(lines, seed=1).lines()) != list(sampled(lines, seed=2).lines())


def run_tool(*arguments, cwd):
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    command = [sys.executable, os.path.join(root, "tools", "train_tokenizer.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for language in ("en", "ru", "ko"):
        lines = [text for found, text in documents() if found == language]
        (folder / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_tool_trains_reuses_and_refuses_other_settings(tmp_path, corpus):
    command = ["--input", corpus, "--output", tmp_path / "out", "--vocab-size", 640, "--threads", 1, "language_slots=8"]
    first = run_tool(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "3 languages" in first.stdout
    made = (tmp_path / "out" / "megas2s_tokenizer.json").stat().st_mtime_ns

    second = run_tool(*command, cwd=tmp_path)
    assert second.returncode == 0
    assert "nothing to do" in second.stdout
    assert (tmp_path / "out" / "megas2s_tokenizer.json").stat().st_mtime_ns == made

    other = run_tool(*command, "--seed", 18, cwd=tmp_path)
    assert other.returncode == 2
    assert "add --overwrite to replace it" in other.stderr

    (corpus / "en.txt").write_text("Less than there was.")
    changed = run_tool(*command, cwd=tmp_path)
    assert changed.returncode == 2
    assert "other input files" in changed.stderr


def test_the_flags_that_a_refusal_of_the_tool_names_are_its_own(tmp_path, corpus):
    with open(corpus / "en.txt", "ab") as file:
        file.write(b"\n\xff\n")
    (corpus / "ru.txt").write_text("x" * 5000)
    command = ["--input", corpus, "--output", tmp_path / "out", "--vocab-size", 640, "--threads", 1, "language_slots=8"]
    refused = run_tool(*command, cwd=tmp_path)
    assert refused.returncode == 3
    assert "invalid UTF-8; repair it, or use --invalid-utf8 drop" in refused.stderr
    short = run_tool(*command, "--invalid-utf8", "drop", "--longest-document", 4999, cwd=tmp_path)
    assert short.returncode == 3
    assert "a document of more than 4999 bytes; part it, or raise --longest-document" in short.stderr
    trained = run_tool(*command, "--invalid-utf8", "drop", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "en: 1 invalid UTF-8 dropped" in trained.stdout


def test_the_tool_tells_how_far_it_has_read(tmp_path, corpus, monkeypatch, capsys):
    from megas2s.data.progress import Display

    monkeypatch.setattr(Display, "SECONDS", 0.0)
    tool = os.path.join(os.path.dirname(__file__), "..", "..", "tools", "train_tokenizer.py")
    flags = ["--input", str(corpus), "--output", str(tmp_path / "out"), "--vocab-size", "640", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [tool, *flags, "language_slots=8"])
    runpy.run_path(tool)["main"]()
    assert re.search(
        r"^read: 3/3 files, [\d,]+ documents/s, .* MB/s, 100%, ETA 0:00:00$", capsys.readouterr().out, re.M
    )


def test_the_tool_names_the_nearest_setting(tmp_path, corpus):
    answer = run_tool("--input", corpus, "--output", tmp_path / "out", "sentinal=3", cwd=tmp_path)
    assert answer.returncode == 2
    assert "sentinal: unknown key; did you mean 'sentinels'?" in answer.stderr


def test_the_defaults_of_the_tool_are_those_of_the_spec(tmp_path):
    import json

    from megas2s.spec import plain

    printed = run_tool("--output", tmp_path / "out", "--print-config", cwd=tmp_path)
    assert json.loads(printed.stdout) == plain(TokenizerSpec, TokenizerSpec())


def test_the_tool_plans_without_training(tmp_path, corpus):
    answer = run_tool("--input", corpus, "--output", tmp_path / "out", "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert str(corpus / "ko.txt") in answer.stdout
    assert not (tmp_path / "out").exists()


def test_train_tokenizer_returns_what_load_reads(tmp_path, tokenizer):
    made = train_tokenizer(documents(), SPEC, tmp_path / "again")
    assert made.fingerprint == tokenizer.fingerprint


def test_a_training_that_dies_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(SentencePieceTrainer, "train", lambda **_: os._exit(9))
    with pytest.raises(Refusal, match=r"died \(exit code 9\), perhaps for want of memory; lower sample_characters"):
        train(documents(), SPEC)


def test_ctrl_c_ends_a_training_that_cannot_hear_it(monkeypatch):
    def for_hours(**_):
        os.kill(os.getpid(), signal.SIGINT)  # a terminal sends it to both
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(SentencePieceTrainer, "train", for_hours)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(documents(), SPEC)
    assert time.monotonic() - started < 30
