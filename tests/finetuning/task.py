"""What small models learn here: a sentence with a colour, which is its class, its number, a tag and its translation."""

from __future__ import annotations

SIZES = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 1, "max_positions": 32}
COLOURS = ("red", "blue")
NOUNS = ("house", "tree", "river", "street", "stone", "garden", "window", "morning")
GERMAN = {"red": "rot", "blue": "blau blau"}  # answers end at different places


WRITERS = ("seq2seq", "causal", "masked", "pseudo_masked")
STEPS = {"causal": 200, "masked": 600}  # noise, and of masked few labels a step, take longer
STEPS |= dict.fromkeys(("pseudo_masked", "pseudo_masked in spans"), 400)
MEASURES = {"regress": "pearson", "tag": "span_f1", **dict.fromkeys(WRITERS, "exact_match")}


def examples(count: int, first: int = 0) -> list[dict]:
    """A sentence with a colour, which is its class, its number, one of its tags and, in German, its translation."""
    found = []
    for number in range(first, first + count):
        colour, noun, other = COLOURS[number % 2], NOUNS[number % 7], NOUNS[number * 3 % 8]
        words = ["the", noun, "is", colour, "and", "the", other, "not"]
        tags = ["B-COLOUR" if word == colour else "O" for word in words]
        record = {
            "text": " ".join(words),
            "label": number % 2,
            "score": 2.0 * (number % 2),
            "words": words,
            "tags": tags,
        }
        found.append({**record, "answer": GERMAN[colour]})
    return found


METHODS = {
    "classify": ({"name": "classify"}, {}, {}),
    "regress": ({"name": "regress"}, {"label": "score"}, {}),
    "tag": ({"name": "tag"}, {"text": "words", "label": "tags"}, {}),
    "seq2seq": ({"name": "seq2seq"}, {"label": "answer"}, {"num_decoder_layers": 1}),
    "causal": ({"name": "causal"}, {"label": "answer"}, {"max_positions": 40}),
    "masked": ({"name": "masked"}, {"label": "answer"}, {"max_positions": 40}),
    "pseudo_masked": ({"name": "pseudo_masked"}, {"label": "answer"}, {"max_positions": 40}),
    "pseudo_masked in spans": (
        {"name": "pseudo_masked", "span_length": 3, "span_prob": 0.5},
        {"label": "answer"},
        {"max_positions": 40},
    ),
    "classify by a decoder": ({"name": "classify"}, {}, {"num_decoder_layers": 1}),
    "regress by a decoder": ({"name": "regress"}, {"label": "score"}, {"num_decoder_layers": 1}),
    "tag by a decoder": ({"name": "tag"}, {"text": "words", "label": "tags"}, {"num_decoder_layers": 1}),
}
