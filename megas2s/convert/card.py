"""The model card: a README.md that says what a model is, how it came to be and how to load it.

What is not known is not claimed: a part of the run that is no longer there leaves its section out, and the licence is
for the one who publishes to choose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from megas2s import files
from megas2s.convert.importing import HEAD, RANDOM, WRITES
from megas2s.convert.names import Part
from megas2s.convert.source import RECIPE, Source
from megas2s.data.corpus import Corpus
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes

METRICS, LAUNCHES = "metrics.jsonl", "run.json"
PATHS = ("run", "corpus", "init", "tokenizer", "train", "dev", "test")  # of a recipe, also by language

LOADING = {
    "fill-mask": """\
from transformers import pipeline

fill = pipeline("fill-mask", model="{name}")
print(fill(f"Paris is the {{fill.tokenizer.mask_token}} of France.")[0]["token_str"])
""",
    "feature-extraction": """\
from transformers import AutoTokenizer, {architecture}

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = {architecture}.from_pretrained("{name}"{options})
states = model(**tokenizer("A sentence.", return_tensors="pt")).last_hidden_state
""",
    "writing": """\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}"{options})
states = model(**tokenizer("A sentence.", return_tensors="pt")).last_hidden_state
""",
    "seq2seq": """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSeq2SeqLM.from_pretrained("{name}")
ids = model.generate(**tokenizer("A sentence.", return_tensors="pt"))
print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
""",
}

NOTES = {
    "fill-mask": "The head for masked language modelling is the one that was trained.",
    "feature-extraction": "{headless} Fine-tune it, or use its states.",
    "writing": (
        "It writes: fine-tuned by the method `{method}` (s2s-ft, Bao et al. 2021), it reads a source and what is "
        "written so far as one row, under a mask that says who sees whom. megas2s decodes it so; transformers loads "
        "the encoder that it is, `AutoModelForMaskedLM` with the head it writes with."
    ),
    "seq2seq": (
        "Labels end in the end-of-sequence token, and the decoder starts from {start}: `model(..., labels=labels)` "
        "makes its inputs so."
    ),
}
HEADLESS = {
    "taken out": (
        "This is the encoder of a sequence-to-sequence model: it was trained without a head for masked language "
        "modelling, so none is here."
    ),
    "never had": "What these weights were converted from had no head for masked language modelling, so none is here.",
    "no class": (
        "It was trained by masked language modelling; the head is not here, since transformers has no class that is "
        "this encoder with one."
    ),
}
STARTS = {"eos": "it", "pad": "the padding token"}


LIMITS = (
    "The model was trained on text alone, without any alignment or safety training; it can repeat what is wrong, "
    "private or hurtful in that text."
)
LIMITS_ELSEWHERE = "What is said of the model that these weights were converted from holds for them too."


class Facts(NamedTuple):
    """What a card is written from."""

    name: str
    part: Part
    head: bool
    taken_out: bool  # an encoder of weights that are an encoder-decoder's
    architecture: str  # class of transformers
    options: Mapping[str, object]  # that its from_pretrained wants
    config: ModelConfig
    dtype: str
    metadata: Mapping[str, str]  # what was written beside the weights
    hashes: Mapping[str, str]  # what it comes from -> SHA-256
    source: Source

    @property
    def task(self) -> str:
        """Which of the kinds of use above it is for."""
        if self.part == "seq2seq":
            return "seq2seq"
        if self.head and WRITES in self.metadata:
            return "writing"
        return "fill-mask" if self.head else "feature-extraction"

    @property
    def trained_here(self) -> bool:
        """Whether the weights say which stage they come from; imported ones were trained elsewhere."""
        return "stage" in self.metadata

    @property
    def fine_tuned(self) -> bool:
        """Whether that stage was a task."""
        return "labels" in self.metadata

    @property
    def headless(self) -> str:
        """Why an encoder has no head."""
        if self.taken_out:
            return HEADLESS["taken out"]
        return HEADLESS["never had" if self.metadata.get(HEAD) == RANDOM else "no class"]


def card(facts: Facts) -> str:
    """The text of README.md."""
    recipe = facts.source.recipe
    corpus = facts.source.corpus
    sections = [
        f"# {facts.name}",
        _what(facts),
        _loading(facts),
        _losses(facts.source, _stages(recipe, facts.source)) if recipe is not None else "",
        _corpus(corpus) if corpus is not None else "",
        _recipe(recipe) if recipe is not None else "",
        _provenance(facts),
        "## Licence and limits\n\nThe licence is for the publisher of this model to state, in the header of this file. "
        + (LIMITS if facts.trained_here else LIMITS_ELSEWHERE),
    ]
    return _header(facts, corpus) + "\n\n".join(section for section in sections if section) + "\n"


def _loading(facts: Facts) -> str:
    options = "".join(f", {key}={value}" for key, value in facts.options.items())
    code = LOADING[facts.task].format(name=facts.name, architecture=facts.architecture, options=options)
    method, start = facts.metadata.get("objective"), STARTS[facts.config.decoder_start]
    note = NOTES[facts.task].format(start=start, headless=facts.headless, method=method)
    return f"## How to load\n\n```python\n{code}```\n\n{note}"


def _header(facts: Facts, corpus: Corpus | None) -> str:
    languages = list(corpus.languages) if corpus is not None else facts.metadata.get("languages", "").split()
    header: dict[str, object] = {"library_name": "transformers"}
    if languages:
        header["language"] = languages
    if facts.task in ("fill-mask", "feature-extraction"):  # which a pipeline of transformers can do
        header["pipeline_tag"] = facts.task
    kind = "seq2seq" if facts.part == "seq2seq" else "encoder"
    trained = "fine-tuning" if facts.fine_tuned else "pretraining"
    tags = ["megas2s", *([trained] if facts.trained_here else []), kind]
    header["tags"] = tags + (["multilingual"] if len(languages) > 1 else [])
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n"


def _what(facts: Facts) -> str:
    config = facts.config
    layers = f"{config.num_encoder_layers} encoder layers"
    if config.is_seq2seq:
        layers += f", {config.num_decoder_layers} decoder layers"
    parameters = sum(
        math.prod(shape)
        for name, shape in parameter_shapes(config).items()
        if facts.head or not name.startswith("mlm.")
    )
    tying = {
        "tied": "one matrix for all",
        "tied_to_decoder": "one matrix for decoder and head, another for the encoder",
        "untied_head": "one matrix for encoder and decoder, another for the head",
        "untied": "three matrices",
    }
    relative = f"relative, {config.relative_buckets} buckets up to {config.relative_max_distance} tokens"
    rows = {
        "parameters": f"{parameters:,}",
        "layers": layers,
        "width": f"{config.hidden_size}, {config.num_heads} heads",
        "feed-forward": f"{config.ffn_size}, {'gated ' if config.gated else ''}{config.activation}",
        "positions": f"{config.max_positions}" if config.has_learned_positions else relative,
        "vocabulary": f"{config.vocab_size:,} ({tying[config.tying]})",
        "stored as": facts.dtype,
    }
    step = f" at step {facts.source.step:,}" if facts.source.step is not None else ""
    kind = "encoder-decoder" if config.is_seq2seq else "encoder"
    said = f"A {config.norm_position}-norm {kind} "
    if facts.trained_here:
        how = "fine-tuned with megas2s, by the method" if facts.fine_tuned else "pretrained with megas2s, from stage"
        said += f"{how} `{facts.metadata['stage']}`{step}."
    else:
        said += "converted with megas2s; how it was trained, these weights do not say."
    return f"{said}\n\n{_table(('', ''), rows.items())}"


def _stages(recipe: Mapping[str, Any], source: Source) -> list[str]:
    """The stages up to the exported one."""
    names: list[str] = recipe["stage_names"]
    return names[: names.index(source.stage) + 1] if source.stage in names else names


def _losses(source: Source, stages: Sequence[str]) -> str:
    """The last losses of each stage, in nats per predicted token; a checkpoint's own stage up to its step."""
    assert source.run is not None
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in _records(source.run / METRICS):
        beyond = record.get("stage") == source.stage and source.step is not None and record["step"] > source.step
        if record.get("stage") in stages and "loss" in record and not beyond:
            last[record["stage"], record["kind"]] = record
    if not last:
        return ""
    kinds = {"train": "training", "heldout": "held-out"}
    rows = [
        (f"`{stage}`", kinds[kind], f"{last[stage, kind]['step']:,}", _number(last[stage, kind]["loss"]))
        for stage in stages
        for kind in kinds
        if (stage, kind) in last
    ]
    text = "## Losses\n\nNats per predicted token, as last logged in each stage.\n\n"
    text += _table(("stage", "", "step", "loss"), rows)
    ended = [last[stage, "heldout"] for stage in stages if (stage, "heldout") in last]
    languages = _by_language(ended[-1]) if ended else []
    if languages:
        text += f"\n\nHeld-out loss by language at the end of `{ended[-1]['stage']}`:\n\n"
        text += _table(("part", "language", "loss"), languages)
    return text


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; a last one that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _by_language(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    parts = [(key.split("/"), value) for key, value in record.items() if key.startswith("loss/")]
    return [(path[1], path[2], _number(value)) for path, value in parts if len(path) == 3]


def _corpus(corpus: Corpus) -> str:
    rows = []
    for language in corpus.languages:
        shards = corpus.shards(language=language)
        documents, tokens = sum(s.documents for s in shards), sum(s.tokens for s in shards)
        rows.append((language, f"{documents:,}", f"{tokens:,}"))
    total = sum(shard.tokens for shard in corpus.shards())
    text = f"## Training data\n\n{total:,} tokens in {len(corpus.languages)} languages, before sampling.\n\n"
    return text + _table(("language", "documents", "tokens"), rows)


def _recipe(recipe: Mapping[str, Any]) -> str:
    """The recipe as it was resolved; files and folders by their last name, since paths say nothing elsewhere."""
    shown = {key: _last_names(value, key in PATHS) for key, value in recipe.items() if key != "stage_names"}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return f"## Recipe\n\n```yaml\n{text}```"


def _last_names(value: Any, is_path: bool) -> Any:
    """A value of a recipe, and what is in it."""
    if isinstance(value, Mapping):
        return {key: _last_names(one, is_path or key in PATHS) for key, one in value.items()}
    if isinstance(value, list):
        return [_last_names(one, is_path) for one in value]
    return Path(value).name if is_path and isinstance(value, str) and value else value


def _provenance(facts: Facts) -> str:
    rows = [(what, f"`{value}`") for what, value in facts.hashes.items()]
    run = facts.source.run
    if run is not None and (run / LAUNCHES).is_file():
        launch = files.read_record(run / LAUNCHES)[-1]
        packages = launch.get("packages", {})
        rows.append(("code revision", f"`{launch.get('git', 'unknown')}`"))
        rows += [(name, str(packages[name])) for name in ("torch", "deepspeed") if name in packages]
    return f"## Provenance\n\nSHA-256 where not said otherwise; {RECIPE} is the file in the run.\n\n" + _table(
        ("", ""), rows
    )


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else str(value)
