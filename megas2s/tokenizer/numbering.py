"""How transformers numbers the pieces of a SentencePiece model, by the files beside it.

    the model    <unk> <s> </s> , . ...
    XLM-R        <s> <pad> </s> <unk> , . ... <mask>                      fairseq's order
    MBart        <s> <pad> </s> <unk> , . ... ar_AR ... zh_CN <mask>
    T5           <pad> </s> <unk> , . ... <extra_id_99> ... <extra_id_0>

`tokenizer.json` says it where there is one. Else the rule follows from the kind of tokenizer, which
`tokenizer_config.json` or the model's `config.json` names, and tokens that the former lists come behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megas2s.errors import BadData
from megas2s.tokenizer.adopting import SENTINEL
from megas2s.tokenizer.folder import BOS, CONFIG, EOS, FAST, MASK, PAD, UNK

FAIRSEQ_FILE = "sentencepiece.bpe.model"  # what fairseq's models are called
SETTINGS = "config.json"

MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)
ONLY_MBART50 = (
    "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN "
    "te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
FAIRSEQ = {"XLMRoberta": "", "MBart": MBART, "MBart50": f"{MBART} {ONLY_MBART50}"}  # kind -> its languages
T5 = ("T5", "MT5")
OTHERS = (
    "Camembert",
    "Barthez",
    "XGLM",
    "Nllb",
    "M2M100",
    "Pegasus",
    "BigBirdPegasus",
    "Fairseq",
)  # rules not known here
MODEL_TYPES = {
    "xlm-roberta": "XLMRoberta",
    "mbart": "MBart",
    "t5": "T5",
    "mt5": "T5",
    "umt5": "T5",
    "camembert": "Camembert",
    "xglm": "XGLM",
    "m2m_100": "M2M100",
    "pegasus": "Pegasus",
    "bigbird_pegasus": "BigBirdPegasus",
}
NAMELESS = ("PreTrained", "TokenizersBackend")  # classes of transformers that fit every tokenizer


def kind_of(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The class of transformers that reads a tokenizer, without its endings; empty where nothing names it."""
    for said in (config, settings):
        name = str(said.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
        if name and name not in NAMELESS:
            return name
    return "T5" if "extra_ids" in config else MODEL_TYPES.get(str(settings.get("model_type")), "")


def opens_with(kind: str) -> str | None:
    """The token that a kind of tokenizer puts before each row. MBart-50 puts a language's tag, which is none."""
    return BOS if kind == "XLMRoberta" else None


def by_rule(file: Path, pieces: Sequence[str], kind: str, config: Mapping[str, Any]) -> dict[int, str]:
    """Id -> piece for the model in `file` of a folder without tokenizer.json; raises BadData where no rule is known."""
    if kind.startswith(OTHERS):
        raise _unknown(file, f"a {kind}Tokenizer")
    if not kind and file.name == FAIRSEQ_FILE:
        raise BadData(
            f"{file} is of XLM-R, of MBart or of another kind, which count differently, and neither {CONFIG} nor "
            f"{SETTINGS} beside it says which; put the {SETTINGS} of its model there"
        )
    if kind in FAIRSEQ:
        names = _fairseq(file, pieces, FAIRSEQ[kind].split())
    else:
        names = [*pieces, *(_extra_ids(file, pieces, config) if kind in T5 else ())]
    listed = [*_contents(config.get("additional_special_tokens")), *_contents(config.get("extra_special_tokens"))]
    known = set(names)
    names += [name for name in dict.fromkeys(listed) if name not in known]
    numbered = dict(enumerate(names))
    added = {int(number): entry["content"] for number, entry in (config.get("added_tokens_decoder") or {}).items()}
    if any(numbered.get(number, name) != name for number, name in added.items()):
        raise _unknown(file, f"a {kind}Tokenizer" if kind else "an unnamed tokenizer")
    return numbered | added


def by_file(fast: Mapping[str, Any], folder: Path) -> dict[int, str]:
    """Id -> piece as a tokenizer.json counts."""
    model = fast.get("model", {})
    listed = model.get("vocab")
    if isinstance(listed, list):
        numbered = {number: entry[0] for number, entry in enumerate(listed)}
    elif isinstance(listed, dict):
        numbered = {number: piece for piece, number in listed.items()}
    else:
        raise BadData(f"{folder / FAST} is not the twin of a SentencePiece model (type {model.get('type')!r})")
    return numbered | {added["id"]: added["content"] for added in fast.get("added_tokens", [])}


def _fairseq(file: Path, pieces: Sequence[str], languages: Sequence[str]) -> list[str]:
    if list(pieces[:3]) != [UNK, BOS, EOS]:
        raise BadData(
            f"{file} begins with {', '.join(pieces[:3])}, and a model of XLM-R or MBart with {UNK}, {BOS}, {EOS}; "
            f"bring the {FAST} that was saved with it"
        )
    names = [BOS, PAD, EOS, UNK, *pieces[3:], *languages, MASK]
    if twice := sorted({PAD, MASK, *languages} & set(pieces)):
        raise BadData(
            f"{file} holds {twice[0]}, which a tokenizer of XLM-R or MBart adds; bring the {FAST} saved with it"
        )
    return names


def _extra_ids(file: Path, pieces: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """T5's sentinels, the last one first; a model that brings its own, as mT5's, gets none where none are asked for."""
    default = 0 if any(SENTINEL.fullmatch(piece) for piece in pieces) else 100
    count = config.get("extra_ids", default)
    if not isinstance(count, int) or count < 0:
        raise BadData(f"{file.parent / CONFIG} has extra_ids {count!r}; name how many sentinels there are")
    return [f"<extra_id_{number}>" for number in range(count - 1, -1, -1)]


def _contents(listed: object) -> list[str]:
    """The names in a list of tokens, each a string or a dictionary with its content."""
    entries = listed if isinstance(listed, list) else []
    contents = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries]
    return [content for content in contents if isinstance(content, str)]


def _unknown(file: Path, kind: str) -> BadData:
    return BadData(
        f"the tokenizer in {file.parent}, {kind}, numbers its pieces differently from its SentencePiece model and has "
        f"no {FAST} to say how; load it with transformers and save it to get one"
    )
