"""Does an encoder know the order of words? Its loss with the words of each window shuffled, and a probe for places.

python docs/runs/spine/order.py corpora/spine exports/spine_encoder exports/spine_scratch
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from megas2s.data.corpus import Corpus
from megas2s.labels import IGNORED
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train.assemble import units

COLUMNS, MASKED, ROWS = 127, 19, 16  # of a window; of its tokens; of each language and source


def windows(corpus: Corpus) -> list[np.ndarray]:
    """Held-out windows, (ROWS, COLUMNS) for each language and source."""
    found = units(corpus.shards("heldout"), COLUMNS)
    return [
        np.stack([np.asarray(u.windows[i], dtype=np.int64) for i in range(min(ROWS, len(u.windows)))]) for u in found
    ]


def masked_loss(model: torch.nn.Module, groups: list[np.ndarray], vocabulary: Vocabulary, *, shuffled: bool) -> float:
    """Mean loss at MASKED masks a row, over languages and sources; `shuffled` mixes the tokens of each row first."""
    rng, losses = np.random.default_rng(0), []
    for group in groups:
        tokens = rng.permuted(group, axis=1) if shuffled else group
        chosen = rng.permuted(np.tile(np.arange(COLUMNS), (len(group), 1)), axis=1)[:, :MASKED]
        inputs, labels = tokens.copy(), np.full_like(tokens, IGNORED)
        np.put_along_axis(labels, chosen, np.take_along_axis(tokens, chosen, 1), 1)
        np.put_along_axis(inputs, chosen, vocabulary.mask, 1)
        inputs, labels = (
            np.pad(rows, ((0, 0), (0, 1)), constant_values=last)
            for rows, last in ((inputs, vocabulary.eos), (labels, IGNORED))
        )
        losses.append(float(model(input_ids=torch.tensor(inputs), labels=torch.tensor(labels)).loss))
    return float(np.mean(losses))


def places_found(states: Tensor) -> float:
    """Share of tokens whose place a linear classifier reads from the states (N, COLUMNS, D); half fit, half tested."""
    half = len(states) // 2
    flat = torch.nn.functional.pad((states - states.mean((0, 1))) / states.std((0, 1)), (0, 1), value=1.0).double()
    places = torch.eye(COLUMNS, dtype=torch.float64).repeat(half, 1)
    weights = torch.linalg.lstsq(flat[:half].flatten(0, 1), places).solution
    return float(((flat[half:] @ weights).argmax(-1) == torch.arange(COLUMNS)).double().mean())


@torch.no_grad()
def main(corpus_folder: str, encoder: str, seq2seq: str) -> None:
    """Both measures for an exported encoder, the second for the encoder of an exported encoder-decoder too."""
    corpus = Corpus.open(Path(corpus_folder))
    vocabulary = Tokenizer.load(corpus.tokenizer_folder).vocabulary
    groups = windows(corpus)
    model = AutoModelForMaskedLM.from_pretrained(encoder).eval()
    for shuffled in (False, True):
        loss = masked_loss(model, groups, vocabulary, shuffled=shuffled)
        print(f"loss at masks, words {'shuffled' if shuffled else 'in order'}: {loss:.3f} nats")
    rows = np.random.default_rng(1).permutation(np.concatenate(groups))
    ids = torch.tensor(np.pad(rows, ((0, 0), (0, 1)), constant_values=vocabulary.eos))
    bodies = {encoder: model.base_model, seq2seq: AutoModelForSeq2SeqLM.from_pretrained(seq2seq).eval().get_encoder()}
    for name, body in bodies.items():
        print(f"{name}: {places_found(body(input_ids=ids).last_hidden_state[:, :COLUMNS]):.1%} of places found")


if __name__ == "__main__":
    main(*sys.argv[1:])
