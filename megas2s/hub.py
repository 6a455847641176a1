"""Folders of models and tokenizers: one on this machine, or a repository of the Hugging Face hub by its name.

    folder_of("exports/encoder", TOKENIZER)       a folder that is there is taken as it is
    folder_of("facebook/bart-base", TOKENIZER)    else the hub is asked, and its files are kept in the hub's own cache

Only the files that are asked for are fetched, and of those what another replaces only where that is missing; code is
never among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from megas2s.errors import BadConfig, Refusal
from megas2s.files import disk_trouble

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

SLOW = ("vocab.txt", "vocab.json", "merges.txt")  # BERT's is read, others are not: a folder can be told so
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "megas2s_tokenizer.json",
    "config.json",  # of the model: says whose SentencePiece model it is where tokenizer_config.json does not
    "*.model",
    *SLOW,
)
WEIGHTS = ("config.json", "megas2s.json", "*.safetensors", "*.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
BETTER = dict.fromkeys(SLOW, ("tokenizer.json", "*.model")) | dict.fromkeys(PICKLED, ("*.safetensors",))


def folder_of(name: str, wanted: Sequence[str]) -> Path:
    """The folder or file that `name` is, or the folder of a repository of that name; raises BadConfig."""
    path = Path(name)
    if path.exists() or not NAME.fullmatch(name):
        return path  # whoever reads it says what is missing
    first = [pattern for pattern in wanted if pattern not in BETTER]
    folder = _fetched(name, first)
    then = [
        pattern
        for pattern in wanted
        if pattern in BETTER and not any(any(folder.glob(better)) for better in BETTER[pattern])
    ]
    return _fetched(name, [*first, *then]) if then else folder


def _fetched(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import constants, snapshot_download  # half a second, and only where a name is no folder

    try:
        with disk_trouble(Path(constants.HF_HUB_CACHE)):
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Refusal:
        raise
    except Exception as error:  # the hub's, the network's and the proxy's errors have nothing in common
        said = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise BadConfig(
            f"there is no folder {name}, and the hub gave no repository of that name ({reason}); name a folder, or "
            "download it where there is a network"
        ) from None
