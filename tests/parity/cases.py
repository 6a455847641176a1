"""A small model of every class of transformers that comes and goes, its inputs, and what it gives for them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from megas2s import files
from megas2s.convert.importing import Incoming
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import save_weights

VOCABULARY, WIDTH, POSITIONS = 320, 24, 40


class Case(NamedTuple):
    """A class of transformers, a small configuration of it, and the id of its padding."""

    kind: str
    settings: dict
    pad: int = 1
    own_head: bool = False  # transformers 5 ties T5's head whatever its config says; files may hold another one

    def make(self, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        kind = getattr(transformers, self.kind)
        model = kind(kind.config_class(**self.settings, pad_token_id=self.pad)).to(dtype).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "final_logits_bias":
                    parameter.copy_(torch.normal(0.0, 0.3, tuple(parameter.shape), generator=generator))
            if self.own_head:
                head = torch.normal(0.0, 0.3, tuple(model.lm_head.weight.shape), generator=generator)
                model.lm_head.weight = torch.nn.Parameter(head.to(dtype))
        return model


def encoder(kind: str, *, pad: int = 1, **changes: object) -> Case:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": POSITIONS, "type_vocab_size": 2}
    return Case(kind, {**sizes, **changes}, pad)


def bart(kind: str, **changes: object) -> Case:
    sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": 3, "decoder_layers": 2}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": POSITIONS}
    return Case(kind, {**sizes, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, **changes})


def t5(kind: str, *, own_head: bool = False, **changes: object) -> Case:
    sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 6, "d_ff": 40, "num_layers": 3, "num_heads": 4}
    sizes |= {"num_decoder_layers": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
    return Case(kind, {**sizes, "decoder_start_token_id": 0, **changes}, pad=0, own_head=own_head)


CASES = {
    "bart": bart("BartForConditionalGeneration"),
    "bart_untied": bart("BartForConditionalGeneration", tie_word_embeddings=False, activation_function="gelu_new"),
    "bart_body": bart("BartModel"),
    "mbart": bart("MBartForConditionalGeneration", scale_embedding=True, activation_function="relu"),
    "mbart_untied": bart("MBartForConditionalGeneration", tie_word_embeddings=False),
    "t5_1_0": t5("T5ForConditionalGeneration"),
    "t5_1_0_own_head": t5("T5ForConditionalGeneration", own_head=True),
    "t5_1_1": t5(
        "T5ForConditionalGeneration", feed_forward_proj="gated-gelu", tie_word_embeddings=False, own_head=True
    ),
    "t5_1_1_tied": t5("T5ForConditionalGeneration", feed_forward_proj="gated-gelu", scale_decoder_outputs=False),
    "t5_wide_heads": t5("T5ForConditionalGeneration", d_kv=10, feed_forward_proj="gated-silu"),
    "mt5": t5("MT5ForConditionalGeneration", own_head=True),
    "mt5_tied": t5("MT5ForConditionalGeneration"),
    "t5_encoder": t5("T5EncoderModel"),
    "roberta": encoder("RobertaForMaskedLM", type_vocab_size=1),
    "roberta_two_types": encoder("RobertaForMaskedLM", hidden_act="relu"),
    "roberta_body": encoder("RobertaModel"),
    "xlm_roberta": encoder("XLMRobertaForMaskedLM", type_vocab_size=1),
    "roberta_prelayernorm": encoder("RobertaPreLayerNormForMaskedLM", type_vocab_size=1),
    "bert": encoder("BertForMaskedLM", pad=0),
    "bert_body": encoder("BertModel", pad=0),
    "electra": encoder("ElectraForMaskedLM", pad=0, embedding_size=16),
    "electra_base": encoder("ElectraForMaskedLM", pad=0, embedding_size=WIDTH),
    "electra_discriminator": encoder("ElectraForPreTraining", pad=0, embedding_size=16),
}


def ours_of(found: Incoming) -> torch.nn.Module:
    model = build(found.config).eval()
    values = dict(found.tensors())
    with torch.no_grad():
        for name, parameter in canonical_parameters(model).items():
            parameter.copy_(values[name])
    return model


def rows(lengths: tuple[int, ...], pad: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.full((len(lengths), max(lengths)), pad)
    for row, length in zip(found, lengths, strict=True):
        row[:length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
    return found


def inputs(case: Case) -> dict[str, torch.Tensor]:
    ids = rows((30, 17, 5), case.pad, seed=1)
    batch = {"input_ids": ids, "attention_mask": ids.ne(case.pad).long()}
    if case.settings.get("type_vocab_size", 0) > 1:
        batch["token_type_ids"] = (torch.arange(ids.shape[1]) > 3).long().expand_as(ids)
    return batch


def logits_of(theirs: torch.nn.Module, batch: dict[str, torch.Tensor], pad: int) -> torch.Tensor:
    """Their logits at real targets, or their states where there is no head on the vocabulary."""
    if theirs.config.is_encoder_decoder:
        decoder = rows((9, 20, 13), pad, seed=2)
        output = theirs(**batch, decoder_input_ids=decoder)
        if hasattr(output, "logits"):
            return output.logits[decoder.ne(pad)]
        return output.last_hidden_state[decoder.ne(pad)] @ theirs.get_input_embeddings().weight.T
    body = theirs.base_model if not hasattr(theirs, "lm_head") and "MaskedLM" not in type(theirs).__name__ else None
    output = theirs(**batch) if body is None else body(**batch)
    states = output.logits if body is None else output.last_hidden_state
    return states[batch["attention_mask"].bool()]


def logits_of_ours(model: torch.nn.Module, batch: dict[str, torch.Tensor], pad: int, *, head: bool) -> torch.Tensor:
    if model.config.is_seq2seq:
        decoder = rows((9, 20, 13), pad, seed=2)
        hidden = model({**batch, "decoder_input_ids": decoder}).decoder_hidden
        return model.logits(hidden[decoder.ne(pad)])
    hidden = model(batch).encoder_hidden[batch["attention_mask"].bool()]
    return model.logits(hidden) if head else hidden


def publish(folder: Path, found: Incoming) -> None:
    temporary = files.temporary_folder(folder)
    save_weights(temporary, found.tensors(), config=found.config, metadata=found.metadata)
    files.publish(temporary, folder, {"kind": "weights"})
