"""Reload two exported folders with transformers, fill a mask and reconstruct a sentence."""

from pathlib import Path

from megas2s import cli
from megas2s.errors import BadConfig

MASK = "<mask>"
MASKED = "The train to the coast leaves at <mask> in the morning."
BROKEN = "The train to the coast at seven in the."


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("encoder", help="folder exported from an encoder")
    parser.add_argument("seq2seq", help="folder exported from an encoder-decoder")
    parser.add_argument("--masked", default=MASKED, help="a sentence with one <mask>")
    parser.add_argument("--broken", default=BROKEN, help="a sentence to reconstruct")
    cli.look_first(parser, dry_run="load both, say their sizes, show nothing")
    arguments = parser.parse_args()
    if arguments.print_config:
        cli.print_settings(arguments)
        return
    if arguments.masked.count(MASK) != 1:
        raise BadConfig(f"--masked {arguments.masked!r} has {arguments.masked.count(MASK)} {MASK}; give it one")
    for folder in (arguments.encoder, arguments.seq2seq):
        if not (Path(folder) / "config.json").is_file():
            raise BadConfig(f"{folder} has no config.json: no exported model; tools/convert_to_hf.py makes one")

    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
    encoder = AutoModelForMaskedLM.from_pretrained(arguments.encoder).eval()
    seq2seq = AutoModelForSeq2SeqLM.from_pretrained(arguments.seq2seq).eval()
    if arguments.dry_run:
        for folder, model in ((arguments.encoder, encoder), (arguments.seq2seq, seq2seq)):
            print(f"{folder}: {type(model).__name__} of {model.num_parameters():,} parameters")
        return
    batch = tokenizer(arguments.masked, return_tensors="pt")
    with torch.no_grad():
        logits = encoder(**batch).logits
    place = (batch["input_ids"] == tokenizer.mask_token_id).nonzero()[0, 1]
    best = [tokenizer.decode([token]).strip() for token in logits[0, place].topk(5).indices.tolist()]
    print(f"masked        {arguments.masked}")
    print(f"filled        {arguments.masked.replace(tokenizer.mask_token, best[0])}")
    print(f"by rank       {', '.join(map(repr, best))}")

    tokenizer = AutoTokenizer.from_pretrained(arguments.seq2seq)
    batch = tokenizer(arguments.broken, return_tensors="pt")
    generated = seq2seq.generate(**batch, max_length=64, num_beams=1, do_sample=False)
    print(f"broken        {arguments.broken}")
    print(f"reconstructed {tokenizer.decode(generated[0], skip_special_tokens=True)}")


if __name__ == "__main__":
    cli.run(main)
