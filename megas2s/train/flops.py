"""Model FLOPs of one optimizer step, matrix by matrix, from a model's parameter list.

A matrix of N elements that meets n tokens costs 2 N n FLOPs forward, 2 N n for its own gradient where it trains, and
2 N n for the gradient of its input where something below it trains: 6 N n in a model that trains throughout, 2 N n in
a frozen encoder. That is the rule autograd follows, so frozen parts cost what they really cost.

What is counted: every matrix product. Attention scores are counted in full also where they are causal, as
`torch.utils.flop_counter` and published MFU figures do; the vocabulary matrix only at predicted positions. Lookups,
norms, activations, softmax and the optimizer are not counted, and neither is recomputation: activation checkpointing
makes a step slower, not richer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]  # canonical parameter name -> shape


class StepSize(NamedTuple):
    """What one optimizer step sees, over all ranks and micro-batches. Padding counts: the hardware multiplies it."""

    rows: int
    source: int  # columns S
    target: int  # columns T, 0 where there is no decoder
    predicted: int  # positions per row that meet the vocabulary
    classed: int = 0  # states of tokens per row that a head of few classes reads
    restored: int = 0  # states of an encoder-decoder's encoder per row that meet the vocabulary
    written: tuple[int, ...] = ()  # columns of further blocks of an encoder's rows, of which the last is read alone


class Flops(NamedTuple):
    """Where the FLOPs of a step go; `total` is their sum."""

    encoder: int = 0
    decoder_self: int = 0
    decoder_cross: int = 0
    decoder_ffn: int = 0
    head: int = 0  # the vocabulary matrix, the dense layer before it where there is one, and heads of few classes

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def step_flops(shapes: Shapes, size: StepSize, *, frozen: Collection[str] = ()) -> float:
    """Model FLOPs of one optimizer step over all ranks; divided by seconds, ranks and the device's peak it is MFU."""
    return float(step_breakdown(shapes, size, frozen=frozen).total)


def step_breakdown(shapes: Shapes, size: StepSize, *, frozen: Collection[str] = ()) -> Flops:
    """The FLOPs of one step by part. `frozen` holds canonical names of parameters without a gradient."""
    walk = _Walk(shapes, frozenset(frozen), size)
    memory_moves, encoder = walk.encoder()
    if depth(shapes, "decoder") == 0:
        return Flops(encoder=encoder, head=walk.masked_head(memory_moves))
    decoder = walk.decoder(memory_moves)
    return decoder._replace(encoder=encoder, head=decoder.head + walk.encoder_heads(memory_moves))


def unit_flops(shapes: Shapes, size: StepSize, *, frozen: Collection[str] = ()) -> list[int]:
    """The FLOPs of one step unit by unit: each layer of the encoder, each of the decoder, and all heads as the last."""
    walk = _Walk(shapes, frozenset(frozen), size)
    memory_moves, _ = walk.encoder()
    if depth(shapes, "decoder") == 0:
        return [*walk.units, walk.masked_head(memory_moves)]
    heads = walk.decoder(memory_moves).head + walk.encoder_heads(memory_moves)
    return [*walk.units, heads]


def depth(shapes: Shapes, stack: str) -> int:
    """Layers of a stack, `encoder` or `decoder`; 0 where there is none."""
    return len({name.split(".")[2] for name in shapes if name.startswith(f"{stack}.layers.")})


def vocabulary_matrix(shapes: Shapes) -> str:
    """Name of the matrix that scores the vocabulary: the head's own, or the embedding it is tied to."""
    roles = ("head.weight", "decoder.embed.weight", "shared.weight", "encoder.embed.weight")
    return next(name for name in roles if name in shapes)


def embedding_matrix(shapes: Shapes, stack: str) -> str:
    """Name of the matrix that a stack looks its tokens up in."""
    return "shared.weight" if "shared.weight" in shapes else f"{stack}.embed.weight"


def layers_with_backward(shapes: Shapes, *, frozen: Collection[str] = ()) -> tuple[int, int]:
    """Encoder and decoder layers that take part in the backward pass, and so keep their activations."""
    walk = _Walk(shapes, frozenset(frozen), StepSize(0, 0, 0, 0))
    moves, encoder = walk.backward_layers("encoder", walk.norm("encoder.projection", walk.embedded("encoder")))
    if depth(shapes, "decoder") == 0:
        return encoder, 0
    memory_moves = moves or walk.norm("encoder.norm")
    return encoder, walk.backward_layers("decoder", walk.embedded("decoder") or memory_moves)[1]


class _Walk:
    """The forward pass in order. Beside the cost it carries `moves`: whether a tensor needs a gradient."""

    def __init__(self, shapes: Shapes, frozen: frozenset[str], size: StepSize) -> None:
        self._shapes = shapes
        self._frozen = frozen
        self._size = size
        self.units: list[int] = []  # of each layer so far; a projection of narrow embeddings is the first one's
        self._pre = "encoder.norm.weight" in shapes  # norms before sublayers; a stack then ends in one of its own

    def trains(self, name: str) -> bool:
        return name in self._shapes and name not in self._frozen

    def layers(self, stack: str) -> Iterator[str]:
        return (f"{stack}.layers.{index}" for index in range(depth(self._shapes, stack)))

    def embedded(self, stack: str) -> bool:
        """Whether the sum of the embeddings needs a gradient."""
        tables = (embedding_matrix(self._shapes, stack), f"{stack}.positions.weight", f"{stack}.types.weight")
        return any(map(self.trains, tables)) or self.norm(f"{stack}.embed_norm")

    def norm(self, name: str, moves: bool = False) -> bool:
        return moves or self.trains(f"{name}.weight") or self.trains(f"{name}.bias")

    def before(self, name: str, moves: bool) -> bool:
        """Whether what a sublayer reads needs a gradient; `name` is of its norm."""
        return self.norm(name, moves) if self._pre else moves

    def after(self, name: str, moves: bool) -> bool:
        """Whether the stream after a sublayer does."""
        return moves if self._pre else self.norm(name, moves)

    def backward_layers(self, stack: str, moves: bool) -> tuple[bool, int]:
        """Whether the last layer's output needs a gradient, and how many layers' do."""
        count = 0
        for layer in self.layers(stack):
            moves = moves or any(map(self.trains, (name for name in self._shapes if name.startswith(f"{layer}."))))
            count += moves
        return moves, count

    def encoder(self) -> tuple[bool, int]:
        """Whether the encoder's states need a gradient, and its FLOPs."""
        blocks = (self._size.source, *self._size.written)
        tokens, pairs = sum(blocks), sum(size * sum(blocks[: place + 1]) for place, size in enumerate(blocks))
        moves, total = self.embedded("encoder"), 0
        if "encoder.projection.weight" in self._shapes:
            moves, total = self._linear("encoder.projection", moves, tokens)
        biased = self.trains("encoder.relative_bias.weight")
        last = f"encoder.layers.{depth(self._shapes, 'encoder') - 1}"
        for layer in self.layers("encoder"):
            asking = blocks[-1] if layer == last else tokens
            seen = asking * tokens if layer == last else pairs
            moves, cost = self._self_attention(layer, moves, asking, tokens, seen, biased=biased)
            moves, ffn = self._ffn(layer, moves, asking)
            total += cost + ffn
            self.units.append(total - sum(self.units))
        return self.norm("encoder.norm", moves), total

    def decoder(self, memory_moves: bool) -> Flops:
        """Everything after the encoder, which is left at 0."""
        source, target = self._size.source, self._size.target
        moves, biased = self.embedded("decoder"), self.trains("decoder.relative_bias.weight")
        own = cross = ffn = 0
        for layer in self.layers("decoder"):
            before = own + cross + ffn
            moves, cost = self._self_attention(layer, moves, target, target, target * target, biased=biased)
            own += cost
            norm = f"{layer}.cross_attention_norm"
            queries = (self.before(norm, moves), target)
            mixed, cost = self._attention(f"{layer}.cross_attention", queries, (memory_moves, source), target * source)
            cross, moves = cross + cost, self.after(norm, moves or mixed)
            moves, cost = self._ffn(layer, moves, target)
            ffn += cost
            self.units.append(own + cross + ffn - before)
        matrix = vocabulary_matrix(self._shapes)
        head = self._vocabulary(self.norm("decoder.norm", moves), self._size.predicted, matrix)
        return Flops(decoder_self=own, decoder_cross=cross, decoder_ffn=ffn, head=head)

    def masked_head(self, moves: bool) -> int:
        """The head for masked language modelling, at the predicted positions."""
        return self._masked_head(moves, self._size.predicted, vocabulary_matrix(self._shapes))

    def encoder_heads(self, moves: bool) -> int:
        """What reads the encoder's states of an encoder-decoder beside its decoder."""
        total = 0
        if "classes.weight" in self._shapes:
            total += self._linear("classes", moves, self._size.classed)[1]
        if "mlm.dense.weight" in self._shapes:
            total += self._masked_head(moves, self._size.restored, embedding_matrix(self._shapes, "encoder"))
        return total

    def _masked_head(self, moves: bool, positions: int, matrix: str) -> int:
        moves, dense = self._linear("mlm.dense", moves, positions)
        return dense + self._vocabulary(self.norm("mlm.norm", moves), positions, matrix)

    def _linear(self, name: str, moves: bool, tokens: int) -> tuple[bool, int]:
        """Whether the output needs a gradient, and the products: forward, by the weight, by the input."""
        trains = self.trains(f"{name}.weight")
        cost = 2 * self._size.rows * tokens * math.prod(self._shapes[f"{name}.weight"]) * (1 + trains + moves)
        narrow = False
        for adapter in (f"{name}.lora_a", f"{name}.lora_b"):  # what the second reads moves where the first trains
            if adapter in self._shapes:
                own = self.trains(adapter)
                product = 2 * self._size.rows * tokens * math.prod(self._shapes[adapter])
                cost += product * (1 + own + (moves or narrow))
                narrow = narrow or own
        return moves or trains or narrow or self.trains(f"{name}.bias"), cost

    def _self_attention(
        self, layer: str, moves: bool, asking: int, tokens: int, pairs: int, *, biased: bool
    ) -> tuple[bool, int]:
        """The sublayer of self-attention with its residual; `asking` of its tokens are queries too."""
        norm = f"{layer}.self_attention_norm"
        normed = self.before(norm, moves)
        mixed, cost = self._attention(
            f"{layer}.self_attention", (normed, asking), (normed, tokens), pairs, biased=biased
        )
        return self.after(norm, moves or mixed), cost

    def _attention(
        self, name: str, queries: tuple[bool, int], memory: tuple[bool, int], pairs: int, *, biased: bool = False
    ) -> tuple[bool, int]:
        """Four projections, scores and mixture; `queries` and `memory` are (moves, columns).

        `pairs` of them are scored. `biased`: a trained bias is added to the scores, which therefore need a gradient.
        """
        q_moves, q_cost = self._linear(f"{name}.q", *queries)
        k_moves, k_cost = self._linear(f"{name}.k", *memory)
        v_moves, v_cost = self._linear(f"{name}.v", *memory)
        product = 2 * self._size.rows * pairs * self._shapes[f"{name}.q.weight"][0]
        scores_move = q_moves or k_moves or biased
        scores = product * (1 + q_moves + k_moves)
        mixture = product * (1 + scores_move + v_moves)
        moves, out = self._linear(f"{name}.out", scores_move or v_moves, queries[1])
        return moves, q_cost + k_cost + v_cost + scores + mixture + out

    def _ffn(self, layer: str, moves: bool, tokens: int) -> tuple[bool, int]:
        """The feed-forward sublayer with its residual."""
        normed = self.before(f"{layer}.ffn_norm", moves)
        inner, cost = self._linear(f"{layer}.ffn.up", normed, tokens)
        if f"{layer}.ffn.gate.weight" in self._shapes:
            gated, gate = self._linear(f"{layer}.ffn.gate", normed, tokens)
            inner, cost = inner or gated, cost + gate
        outer, down = self._linear(f"{layer}.ffn.down", inner, tokens)
        return self.after(f"{layer}.ffn_norm", moves or outer), cost + down

    def _vocabulary(self, moves: bool, positions: int, matrix: str) -> int:
        """Logits of so many positions a row once, and each gradient that is needed from the same logits."""
        products = 2 * self._size.rows * positions * math.prod(self._shapes[matrix])
        return products * (1 + moves + self.trains(matrix))
