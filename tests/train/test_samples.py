"""What a person reads of held-out examples: one a language, truth beside the model's tokens, and how many are right."""

from __future__ import annotations

import numpy as np
import torch

from megas2s.labels import IGNORED
from megas2s.train.samples import one_per_language, reconstructions

WORDS = ["<pad>", "the", "cat", "sat", "on", "mat", "<mask>", "</s>"]


def decode(ids: np.ndarray) -> str:
    return " ".join(WORDS[token] for token in ids)


class Parrot:
    """As much of an engine as a sample needs: it answers with the given rows and remembers what it was asked."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers = torch.tensor(answers)
        self.asked: list[dict[str, torch.Tensor]] = []

    def predict(self, batch):
        self.asked.append(batch)
        return self.answers


def batch(**columns):
    return {name: torch.tensor(values) for name, values in columns.items()}


MASKED = batch(
    input_ids=[[1, 6, 3, 6, 7]],
    masked_positions=[[1, 3, 0]],
    labels=[[2, 4, IGNORED]],
    language=[0],
)
DENOISED = batch(
    input_ids=[[1, 2, 7, 0, 0], [4, 1, 5, 7, 0]],
    attention_mask=[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]],
    labels=[[1, 2, 3, 7, IGNORED], [3, 4, 1, 5, 7]],
    language=[0, 1],
)


def test_masked_tokens_stand_beside_what_the_model_fills_in():
    text = reconstructions(Parrot([2, 5, 1]), [MASKED], decode)
    assert text.split("  \n") == [
        "**source** the <mask> sat <mask> </s>",
        "**truth → model** `cat` → `cat`, `on` → `mat`",
        "50% of 2 tokens right",
    ]


def test_a_target_stands_above_what_the_model_says_given_what_went_before():
    first, second = reconstructions(Parrot([1, 2, 2, 7, 5], [3, 4, 1, 5, 7]), [DENOISED], decode).split("\n\n")
    assert first.split("  \n") == [
        "**source** the cat </s>",  # no padding
        "**target** the cat sat </s>",  # no ignored labels
        "**model, given the target so far** the cat cat </s>",
        "75% of 4 tokens right",
    ]
    assert second.split("  \n")[-1] == "100% of 5 tokens right"


def test_a_row_without_labels_says_so():
    nothing = {**MASKED, "labels": torch.full((1, 3), IGNORED)}
    assert reconstructions(Parrot([2, 5, 1]), [nothing], decode).endswith("nothing to predict")


def test_each_language_shows_its_first_row_among_all_batches():
    batches = [batch(language=[2, 2, 0], sample=[0, 1, 2]), batch(language=[0, 1, 2], sample=[3, 4, 5])]
    few = one_per_language(batches, rows=8)
    assert (few["language"].tolist(), few["sample"].tolist()) == ([2, 0, 1], [0, 2, 4])
    assert one_per_language(batches, rows=2)["sample"].tolist() == [0, 2]


def test_every_rank_is_asked_and_the_first_one_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    engine = Parrot([2, 5, 1])
    assert reconstructions(engine, [MASKED], decode) == ""
    assert len(engine.asked) == 1  # the forward pass is collective


def test_every_rank_asks_for_as_many_rows_whatever_languages_it_holds():
    engine = Parrot([1, 2, 3, 7, 5], *[[3, 4, 1, 5, 7]] * 3)
    two = reconstructions(engine, [DENOISED], decode, rows=4)
    one = reconstructions(engine, [{name: rows[:1] for name, rows in DENOISED.items()}], decode, rows=4)
    assert [len(asked["input_ids"]) for asked in engine.asked] == [4, 4]
    assert [len(asked["attention_mask"]) for asked in engine.asked] == [4, 4]
    assert [text.count("**source**") for text in (two, one)] == [2, 1]
