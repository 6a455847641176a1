"""Small tokenizers as others make them, trained on a sample text: RoBERTa's kind, BERT's, T5's and XLM-R's.

Each comes with the names of its tokens' roles, as a tokenizer_config.json of transformers gives them.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = str(Path(__file__).resolve().parents[1] / "launch" / "sample_corpus" / "en.txt")
SIZE = 500
ROBERTA = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
ROBERTA |= {"pad_token": "<pad>", "mask_token": "<mask>"}


def byte_level_bpe() -> tuple[Tokenizer, dict[str, str]]:
    library = Tokenizer(models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train([TEXT], trainer)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return library, ROBERTA


def wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    library.train([TEXT], trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    return library, {**roles, "mask_token": "[MASK]"}


def _unigram(special: list[str]) -> Tokenizer:
    library = Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=special, unk_token="<unk>", show_progress=False)
    library.train([TEXT], trainer)
    return library


def unigram() -> tuple[Tokenizer, dict[str, str]]:
    library = _unigram(["<pad>", "</s>", "<unk>", *(f"<extra_id_{n}>" for n in range(9, -1, -1))])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return library, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def unigram_with_masks() -> tuple[Tokenizer, dict[str, str]]:
    library = _unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return library, ROBERTA


KINDS = {"roberta": byte_level_bpe, "bert": wordpiece, "t5": unigram, "xlm-roberta": unigram_with_masks}
