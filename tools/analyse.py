"""Look into a model: active neurons, entropy of attention, linear probes, alignment and uniformity of sentences.

python tools/analyse.py runs/two_stage --text text/en.txt
python tools/analyse.py facebook/bart-base --corpus corpora/multilingual --language en --out analyses/bart
python tools/analyse.py runs/two_stage --reinitialise encoder.layers.3,decoder.* --out weights/without_layer_3
python tools/analyse.py runs/two_stage --effects launch/finetuning/classify.yaml --out analyses/effects
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    import torch

    from megas2s.analysis.findings import Reader
    from megas2s.analysis.sentences import Chosen
    from megas2s.analysis.subject import Subject

FINETUNE = Path(__file__).resolve().parents[1] / "launch" / "finetune.py"
KIND, WEIGHTS = "analysis", "reinitialised weights"  # what a folder that may be replaced says of itself
ANALYSES, STACKS = ("neurons", "attention", "probes", "geometry"), ("encoder", "decoder")
PROBES, VIEWS = ("length", "content", "bigrams", "order"), ("noise", "dropout")


def arguments() -> argparse.Namespace:
    parser = cli.parser(
        __doc__ or "",
        epilog="The analyses of E2S2 (Zhong et al. 2022); megas2s/analysis/ says of each what exactly is measured.\n"
        "OUT gets analysis.json, a drawing of each, and tensorboard/, where a step is a layer.\n"
        "--reinitialise writes weights for `init:` and analyses nothing; a pattern that names a module means all in\n"
        "it. A matrix that both stacks read is shared.weight, and no pattern of one stack reaches it.\n"
        "--effects fine-tunes by a recipe as it is, with each stack frozen, and with its layers drawn anew, and\n"
        "compares the scores of data.test; the runs stay in OUT_runs, and the same command goes on with them.\n"
        "Drawings need matplotlib: pip install megas2s[dev].",
    )
    add = parser.add_argument
    add("model", help="a run, a stage, a checkpoint, a folder of weights, or a Hugging Face folder or name")
    add("--text", nargs="+", metavar="FILE", help="sentences from .txt or .jsonl files, folders or globs")
    add("--corpus", metavar="FOLDER", help="or from a corpus' held-out documents; where neither is given, of the run's")
    add("--language", metavar="CODE", help="of a corpus: only this one")
    add("--sentences", type=int, default=2000, help="how many, at most")
    add("--max-tokens", type=int, help="longer sentences are left out; 128, or as many as the model reads if fewer")
    add("--analyses", nargs="+", choices=ANALYSES, default=list(ANALYSES), help="which")
    add("--stacks", nargs="+", choices=STACKS, help="whose neurons and attention; all of the model where not given")
    add("--probes", nargs="+", choices=PROBES, default=list(PROBES), help="what is asked of the encoder's layers")
    add("--views", nargs="+", choices=VIEWS, default=["noise"], help="alignment: of E2S2's noise, of two dropouts")
    add("--reinitialise", metavar="PATTERNS", help="names or patterns, parted by commas, to draw anew; needs --out")
    add("--effects", metavar="RECIPE", help="fine-tune by this recipe with parts frozen or drawn anew; needs --out")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="with --effects: values that replace the recipe's")
    add("--each-layer", action="store_true", help="with --effects: freeze, and draw anew, each layer by itself too")
    add("--tokenizer", metavar="FOLDER", help="tokenizer of the weights, where it is not found beside them")
    add("--batch-tokens", type=int, default=4096, help="tokens of one forward pass, padding included")
    add("--device", default="cpu", help="where the model runs, for example cuda")
    add("--seed", type=int, default=0, help="of the choice of sentences, of the test, of views and of fresh weights")
    add("--out", metavar="FOLDER", help="folder to write; analyses/NAME beside the run or folder where not given")
    add("--overwrite", action="store_true", help="replace what an earlier call wrote there")
    cli.look_first(parser, dry_run="check the model, the text and the flags, say what would be done, write nothing")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.print_config:
        cli.print_settings(given)
        return

    from megas2s.analysis import subject as subjects
    from megas2s.errors import BadConfig

    for name in ("sentences", "max_tokens", "batch_tokens"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise BadConfig(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    subject = subjects.find(given.model, Path(given.tokenizer) if given.tokenizer else None)
    for note in subject.notes:
        print(f"note: {note}")
    if (given.set or given.each_layer) and not given.effects:
        raise BadConfig("--set and --each-layer are about --effects; name the recipe of a task with it")
    if given.reinitialise and given.effects:
        raise BadConfig("--reinitialise writes weights and --effects fine-tunes; one of them must go")
    if given.reinitialise:
        reinitialise(given, subject)
    elif given.effects:
        effects(given, subject)
    else:
        analyse(given, subject)


def reinitialise(given: argparse.Namespace, subject: Subject) -> None:
    """Write the subject's weights, some of them drawn anew, as a folder that a stage can start from."""
    from megas2s import files
    from megas2s.convert.source import TOKENIZER
    from megas2s.errors import BadConfig
    from megas2s.models.reinitialising import reinitialised, reinitialised_names
    from megas2s.models.weights import save_weights
    from megas2s.tokenizer import folder as tokenizer_folder

    if not given.out:
        raise BadConfig("--reinitialise writes weights; name their folder with --out")
    out = Path(given.out)
    patterns = [pattern.strip() for pattern in given.reinitialise.split(",")]
    try:
        names = reinitialised_names(subject.config, patterns)
    except ValueError as error:
        raise BadConfig(f"--{error}") from None
    refuse_replacing(out, WEIGHTS, overwrite=given.overwrite)
    what = f"{out}: {len(names)} tensors drawn anew with seed {given.seed}"
    if given.dry_run:
        print(f"would write {what}")
        return
    temporary = files.empty_temporary(out)
    tensors = reinitialised(subject.config, subject.value, names, seed=given.seed)
    drawn = {"reinitialised": ",".join(patterns), "reinitialised_seed": str(given.seed)}
    metadata = {**subject.metadata, "tokenizer": subject.tokenizer.fingerprint, **drawn}
    save_weights(temporary, tensors, config=subject.config, metadata=metadata)
    tokenizer_folder.write(subject.tokenizer, temporary / TOKENIZER, {"settings": {"from": subject.name}})
    files.publish(temporary, out, {"kind": WEIGHTS, "from": subject.facts, "patterns": patterns, "seed": given.seed})
    print(what)


def effects(given: argparse.Namespace, subject: Subject) -> None:
    """Fine-tune every variant, each in a process of its own, and compare what they score."""
    require_matplotlib()
    from megas2s import files, finetuning
    from megas2s.analysis import effects
    from megas2s.errors import BadConfig
    from megas2s.models.weights import MODEL

    if not given.out:
        raise BadConfig("--effects keeps runs and a comparison; name their folder with --out")
    if not (subject.folder / MODEL).is_file():
        raise BadConfig(
            f"--effects fine-tunes from weights of ours; import {subject.folder} with tools/convert_from_hf.py"
        )
    out = Path(given.out)
    refuse_replacing(out, KIND, overwrite=given.overwrite)
    stacks = given.stacks or [*STACKS[: 1 + subject.config.is_seq2seq]]
    chosen = effects.variants(subject.config, stacks=stacks, each_layer=given.each_layer)
    nothing = f"{given.effects} has neither a data.test nor a data.dev with labels, so there is nothing to compare"
    if not any(map(finetuning.load(given.effects, given.set).data.named, ("test", "dev"))):
        raise BadConfig(nothing)
    scores = {}
    for name, variant in chosen.items():
        run = out.with_name(f"{out.name}_runs") / name.replace(" ", "_")
        patterns = [f"{key}={json.dumps(value)}" for key, value in variant._asdict().items()]
        command = [sys.executable, str(FINETUNE), given.effects, f"run={run}", f"init={subject.folder}", *patterns]
        command += [f"tokenizer={given.tokenizer}"] if given.tokenizer else []
        command += [*given.set, *(["--dry-run"] if given.dry_run else [])]
        print(f"{name}: {run}", flush=True)
        if subprocess.run(command, check=False).returncode:
            raise BadConfig(
                f"fine-tuning failed for {name!r}, for the reason above; mend it, and the same command goes on"
            )
        if not given.dry_run:
            results = files.read_json(run / "results.json")
            scored = results.get("test") or results.get("dev")  # a test set without labels has answers alone
            if not scored:
                raise BadConfig(nothing)
            scores[name] = scored["all"]
    if given.dry_run:
        return
    temporary = files.empty_temporary(out)
    effects.write(scores, {"model": subject.facts, "recipe": given.effects, "set": given.set}, temporary)
    files.publish(temporary, out, {"kind": KIND})
    print("\n".join(effects.table(scores)))


def analyse(given: argparse.Namespace, subject: Subject) -> None:
    """Run the analyses, write them, and print the table."""
    require_matplotlib()
    from megas2s import files
    from megas2s.analysis import findings, report
    from megas2s.analysis.tasks import TASKS
    from megas2s.models.loading import filled
    from megas2s.tokenizer.load import Tokenizer

    stacks = given.stacks or [*STACKS[: 1 + subject.config.is_seq2seq]]
    views = given.views if "geometry" in given.analyses else []
    findings.check(subject.config, stacks, views)
    where = device(given.device)
    out = Path(given.out) if given.out else subject.beside / "analyses" / subject.name
    refuse_replacing(out, KIND, overwrite=given.overwrite)
    tokenizer = Tokenizer(subject.tokenizer, subject.folder)
    reader = findings.Reader(subject.config, tokenizer, max_tokens=given.max_tokens, batch_tokens=given.batch_tokens)
    chosen = sentences(given, subject, reader)
    names = given.probes if "probes" in given.analyses else []
    tasks = {name: TASKS[name](chosen.texts, fits=reader.fits, seed=given.seed) for name in names}
    print(
        f"{subject.folder}: {len(chosen.texts)} of {chosen.found} different sentences "
        f"({chosen.short} more are shorter than 5 words, {chosen.long} longer than {reader.max_tokens} tokens)",
        flush=True,
    )
    if given.dry_run:
        probed = ", ".join(f"{name} ({len(task.texts)})" for name, task in tasks.items()) or "nothing"
        print(f"would analyse {', '.join(given.analyses)} of {' and '.join(stacks)}, probe {probed}, write {out}")
        return
    model = filled(subject.config, lambda name: subject.value(name).float()).to(where)
    found = findings.analyse(
        model,
        chosen.texts,
        reader,
        analyses=given.analyses,
        stacks=stacks,
        tasks=tasks,
        views=views,
        seed=given.seed,
    )

    from megas2s.analysis import plots

    temporary = files.empty_temporary(out)
    settings = {name: value for name, value in vars(given).items() if name not in ("print_config", "dry_run", "out")}
    facts = {
        "model": subject.facts,
        "settings": settings,
        "sentences": chosen._replace(texts=len(chosen.texts))._asdict(),
    }
    plots.draw(found, tasks, subject.name, temporary)
    report.write({**facts, **report.plain(found, tasks)}, found, temporary)
    files.publish(temporary, out, {"kind": KIND})
    print("\n".join(report.table(found, tasks)))
    for path in sorted(out.iterdir()):
        print(path)


def require_matplotlib() -> None:
    from megas2s.errors import BadConfig

    if importlib.util.find_spec("matplotlib") is None:
        raise BadConfig("the drawings need matplotlib, which is not installed; pip install matplotlib")


def sentences(given: argparse.Namespace, subject: Subject, reader: Reader) -> Chosen:
    from megas2s.analysis.sentences import choose, from_corpus, from_files
    from megas2s.errors import BadConfig

    if given.text and (given.corpus or given.language):
        raise BadConfig("--text and --corpus (or --language, which is of a corpus) are both given; one of them must go")
    if given.text:
        found = from_files(given.text)
    elif given.corpus or subject.corpus is not None:
        found = from_corpus(Path(given.corpus) if given.corpus else subject.corpus.folder, given.language)
    else:
        raise BadConfig(f"{subject.folder} is of no run whose corpus is there; name sentences with --text or --corpus")
    return choose(found, count=given.sentences, fits=reader.fits, seed=given.seed)


def refuse_replacing(out: Path, kind: str, *, overwrite: bool) -> None:
    from megas2s.convert.export import require_replaceable
    from megas2s.errors import BadConfig

    if require_replaceable(out, kind=kind) and not overwrite:
        raise BadConfig(f"{out} exists; add --overwrite to replace it, or name another folder")


def device(name: str) -> torch.device:
    import torch

    from megas2s.errors import BadConfig

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise BadConfig(
            f"--device {name} cannot be used here ({reason}); say cpu, or cuda on a machine with a GPU"
        ) from None


if __name__ == "__main__":
    cli.run(main)
