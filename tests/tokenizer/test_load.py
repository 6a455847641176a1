import json
import multiprocessing
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megas2s.errors import BadData
from megas2s.tokenizer.load import Tokenizer, opens_word
from megas2s.tokenizer.spm import PART
from megas2s.tokenizer.text import close_lines, cut, normalise, open_lines

from .conftest import TEXTS

SPECIALS = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "<mask>",
    "[DOC]",
    "[CLM]",
    "[en]",
    "[reserved_0]",
    "<sentinel_3>",
    "<0x41>",
]
any_text = st.text(st.characters(), max_size=60)
odd_text = st.lists(
    st.sampled_from([*SPECIALS, " ", "  ", "\n", "\t", "\0", "▁", "é", "é", "ﬁ", "漢", "word", "😀"])
).map("".join)


@given(text=any_text | odd_text)
@example(text=" leads")
@example(text="\n")
@example(text="lone \ud800 surrogate")
def test_decoding_gives_back_the_normalised_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalise(text)


@given(text=any_text | odd_text)
def test_no_text_produces_a_special_token(tokenizer, text):
    v = tokenizer.vocabulary
    special = np.setdiff1d(np.arange(v.size), v.ordinary)
    lone_bytes = range(int(v.ordinary[0]) - 256, int(v.ordinary[0]))
    forbidden = np.setdiff1d(special, lone_bytes)
    assert len(forbidden) == 7 + 16 + 100
    assert not np.isin(tokenizer.encode(text), forbidden).any()


@given(texts=st.lists(any_text | odd_text, max_size=5))
def test_a_batch_is_its_texts_one_after_the_other(tokenizer, texts):
    ids, offsets = tokenizer.encode_batch(texts)
    assert ids.dtype == np.int32
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(ids)
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert ids[start:end].tolist() == tokenizer.encode(text).tolist()


@given(text=any_text)
def test_normalising_twice_changes_nothing(text):
    for form in ("nfc", "nfkc"):
        once = normalise(text, form)
        assert normalise(once, form) == once


def test_normalisation_is_unicode_and_nothing_else():
    text = "e\u0301  ﬁ\t▁\n\n end "
    assert normalise(text, "nfc") == "é  ﬁ\t \n\n end "
    assert normalise(text, "nfkc") == unicodedata.normalize("NFKC", text).replace("▁", " ") == "é  fi\t \n\n end "
    assert normalise("a\ud800b", "nfc") == "a\ufffdb"


@given(text=st.text(st.sampled_from("a \n")))
def test_line_openings_can_always_be_taken_back(text):
    assert close_lines(open_lines(text)) == text


def test_a_word_has_the_same_piece_at_the_start_of_a_line(tokenizer):
    newline = tokenizer.encode("\n")[-1]
    first, second = tokenizer.encode("The letter"), tokenizer.encode("but nobody")
    assert tokenizer.encode("The letter\nbut nobody").tolist() == [*first, newline, *second]


@given(words=st.lists(st.text("ab ", max_size=12), max_size=12), longest=st.integers(1, 20))
def test_parts_are_parted_by_one_space_each_and_never_empty(words, longest):
    text = " ".join(words)
    parts = cut(text, longest)
    assert " ".join(parts) == text
    assert all(parts) or text == ""


def test_long_texts_have_the_ids_of_their_words(tokenizer):
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS.values()).split(" ")
    chosen = [words[number] for number in rng.integers(len(words), size=4 * PART // 5)]
    ids, offsets = tokenizer.encode_batch([" ".join(chosen), "short"])
    assert len(" ".join(chosen)) > 3 * PART
    assert ids[: offsets[1]].tolist() == np.concatenate([tokenizer.encode(word) for word in chosen]).tolist()
    assert tokenizer.decode(ids[offsets[1] :]) == "short"


def test_special_tokens_vanish_from_decoded_text_or_are_named(tokenizer):
    v = tokenizer.vocabulary
    ids = [v.clm, *tokenizer.encode("The letter"), v.sentinels[7], *tokenizer.encode("nobody"), v.eos]
    assert tokenizer.decode(ids, specials=True) == "[CLM] The letter <sentinel_7> nobody </s>"
    assert "[CLM]" not in tokenizer.decode(ids)


def test_ordinary_ids_are_pieces_of_text_only(tokenizer):
    v = tokenizer.vocabulary
    assert v.ordinary.dtype == np.int32
    pieces = [tokenizer.piece(number) for number in v.ordinary]
    assert not set(pieces) & set(SPECIALS)
    assert not [piece for piece in pieces if piece.startswith("<0x")]
    assert "▁" in pieces


def test_word_starts_follow_spaces_newlines_and_scripts(tokenizer):
    starts = tokenizer.vocabulary.word_starts
    ids = tokenizer.encode("The lighthouse\nkeeper wrote")
    words = "".join(tokenizer.piece(n) if not starts[n] else "|" + tokenizer.piece(n) for n in ids)
    assert words == "|▁The|▁lighthouse|<0x0A>|▁keeper|▁wrote"
    assert starts[tokenizer.vocabulary.doc]
    assert [opens_word(piece) for piece in (" ход", "ход", "漢字", "です", "カ", "ไทย", "한", "。", "<0xE3>")] == [
        True, False, True, True, True, True, False, True, False,
    ]  # fmt: skip


def test_the_fingerprint_covers_model_and_metadata(folder, tmp_path):
    for name in ("spiece.model", "megas2s_tokenizer.json"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        if name == "spiece.model":
            content = bytearray((copy / name).read_bytes())
            content[content.index(b"<sentinel_3>") + 10] = ord("4")
            (copy / name).write_bytes(content)
        else:
            described = json.loads((copy / name).read_text())
            (copy / name).write_text(json.dumps({**described, "normalization": "nfkc"}))
        with pytest.raises(BadData, match="has been altered"):
            Tokenizer.load(copy)


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    with pytest.raises(BadData, match=f"has no {name}"):
        Tokenizer.load(copy)


def test_damaged_metadata_and_missing_folders_are_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "megas2s_tokenizer.json").write_text("{")
    with pytest.raises(BadData, match="cannot be read"):
        Tokenizer.load(copy)
    with pytest.raises(BadData, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path / "absent")


def test_the_model_file_of_a_tokenizer_stands_for_its_folder(folder, tokenizer):
    assert Tokenizer.load(folder / "spiece.model").fingerprint == tokenizer.fingerprint


def test_a_tokenizer_travels_to_other_processes(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ids, _ = pool.apply(tokenizer.encode_batch, (["The letter"],))
    assert ids.tolist() == tokenizer.encode("The letter").tolist()
