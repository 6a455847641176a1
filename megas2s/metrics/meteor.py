"""METEOR (Lavie and Agarwal 2007) of English texts, by nltk and WordNet (the extra `english`).

Words are matched as they are, then by stem, then as synonyms; what is matched in many chunks is worth less. nltk asks
WordNet for synonyms of the stems, so those of "large" are never found: its stem is "larg". A corpus has the mean over
its segments, as Hugging Face's `evaluate` reports it. The Java program of METEOR's authors has other weights, and its
figures are others.
"""

from __future__ import annotations

from megas2s.errors import BadConfig
from megas2s.metrics.measure import Measure, Texts, mean


def meteor(texts: Texts) -> Measure:
    """METEOR with alpha 0.9, beta 3 and gamma 0.5, of nltk's words."""
    try:
        import nltk
        from nltk.corpus import wordnet
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError:
        raise BadConfig("METEOR is nltk's, which is not installed: pip install 'megas2s[english]'") from None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise BadConfig("METEOR asks WordNet, which is not here: python -m nltk.downloader wordnet") from None
    split = NLTKWordTokenizer().tokenize
    found = [
        single_meteor_score(split(reference), split(answer))
        for answer, reference in zip(texts.answers, texts.references, strict=True)
    ]
    return mean(found, f"meteor|alpha:0.9|beta:3|gamma:0.5|case:lc|wordnet|nltk:{nltk.__version__}")
