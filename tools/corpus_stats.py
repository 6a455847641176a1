"""What a corpus holds by language: documents, tokens, share of training, and the entropy of its unigrams.

python tools/corpus_stats.py corpora/multilingual --alpha 0.5
"""

from __future__ import annotations

from pathlib import Path

from megas2s import cli


def main() -> None:
    parser = cli.parser(
        __doc__ or "",
        epilog="The entropy (nats) is the loss of a model that knows how often each token occurs and nothing else;\n"
        "'all' is that of all languages mixed by their shares, which knows not even the language.",
    )
    add = parser.add_argument
    add("corpus", help="folder that tools/preprocess.py wrote")
    add("--alpha", type=float, default=0.5, help="languages are read in proportion to tokens ** alpha")
    add("--split", choices=("train", "heldout"), default="train", help="documents whose tokens are counted")
    add("--json", action="store_true", help="one JSON object instead of a table")
    cli.look_first(parser, dry_run="check the corpus, its tokenizer and the flags, count nothing")
    given = parser.parse_args()
    if given.print_config:
        cli.print_settings(given)
        return

    import json

    from megas2s.data import statistics
    from megas2s.data.corpus import Corpus
    from megas2s.data.mixture import Sampling
    from megas2s.errors import BadConfig
    from megas2s.spec import parse
    from megas2s.tokenizer.load import Tokenizer

    corpus = Corpus.open(Path(given.corpus))
    vocab_size = Tokenizer.load(corpus.tokenizer_folder).vocabulary.size
    sampling = parse(Sampling, {"alpha": given.alpha}, source="--alpha")
    share = statistics.shares(corpus, sampling)
    if given.dry_run:
        print(f"would count the tokens of {len(share)} languages in {len(corpus.shards(given.split))} shards")
        return
    counts = statistics.unigrams(corpus, given.split, vocab_size)
    if missing := sorted(counts.keys() - share.keys()):
        raise BadConfig(f"--split {given.split}: no training documents of {', '.join(missing)}, so no share; drop them")
    entries = corpus.shards(given.split)
    rows = {
        language: {
            "documents": sum(entry.documents for entry in entries if entry.language == language),
            "tokens": sum(entry.tokens for entry in entries if entry.language == language),
            "share": share[language],
            "unigram_entropy": statistics.entropy(own),
        }
        for language, own in counts.items()
    }
    present = {language: share[language] / sum(share[other] for other in counts) for language in counts}
    rows["all"] = {
        "documents": sum(entry.documents for entry in entries),
        "tokens": sum(entry.tokens for entry in entries),
        "share": sum(share[language] for language in counts),
        "unigram_entropy": statistics.entropy(statistics.mixed(counts, present)),
    }
    if given.json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    print(f"{'':10} {'documents':>12} {'tokens':>16} {'share':>8} {'entropy':>8}")
    for language, row in rows.items():
        count = f"{language:10} {row['documents']:12,} {row['tokens']:16,}"
        print(f"{count} {row['share']:8.2%} {row['unigram_entropy']:8.3f}")


if __name__ == "__main__":
    cli.run(main)
