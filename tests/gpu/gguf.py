"""Models of real size with random weights, as llama.cpp reads them (GGUF version 3). Their text is noise."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from tests.llamacpp.tiny_gguf import (
    BYTE,
    CONTROL,
    F32,
    I32,
    NORMAL,
    STRING,
    TENSOR_F32,
    U32,
    UNKNOWN,
    VERSION,
    encode,
    encode_text,
    padded,
)

BLOCK = 32
MIB = 1024 * 1024


@dataclass(frozen=True)
class Quantisation:
    """Blocks of 32 weights: a scale of 16 bits, then the weights themselves."""

    tensor_type: int
    file_type: int
    packed: int
    scale: float
    """With it, random weights of a row of 4096 have about the size of real ones: what is computed stays finite."""

    @property
    def block(self) -> int:
        return 2 + self.packed


Q8_0 = Quantisation(tensor_type=8, file_type=7, packed=32, scale=2.0**-12)
Q4_0 = Quantisation(tensor_type=2, file_type=2, packed=16, scale=2.0**-8)


@dataclass(frozen=True)
class Llama:
    """The shape of a model of the llama family; that of Llama 3 8B unless said otherwise."""

    weights: Quantisation
    embedding: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head: int = 128
    feed_forward: int = 14_336
    vocabulary: int = 128_256
    context: int = 131_072

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape, the length of a row first."""
        e, q, kv, f = self.embedding, self.heads * self.head, self.kv_heads * self.head, self.feed_forward
        yield "token_embd.weight", (e, self.vocabulary)
        yield "output_norm.weight", (e,)
        yield "output.weight", (e, self.vocabulary)
        for layer in range(self.layers):
            shapes = {"attn_norm": (e,), "attn_q": (e, q), "attn_k": (e, kv), "attn_v": (e, kv), "attn_output": (q, e)}
            shapes |= {"ffn_norm": (e,), "ffn_gate": (e, f), "ffn_up": (e, f), "ffn_down": (f, e)}
            yield from ((f"blk.{layer}.{name}.weight", shape) for name, shape in shapes.items())

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        return prod(shape) * 4 if len(shape) == 1 else prod(shape) // BLOCK * self.weights.block

    def on_gpu_mb(self) -> float:
        """The weights without the embedding of tokens, which stays in host RAM where it is not tied to the output."""
        return sum(self.bytes_of(shape) for name, shape in self.tensors() if name != "token_embd.weight") / MIB

    def kv_mb(self, tokens: int) -> float:
        """The cache of keys and values of 16 bits."""
        return tokens * self.layers * 2 * self.kv_heads * self.head * 2 / MIB

    def write(self, path: Path) -> None:
        """Some gigabytes, as fast as the disk takes them."""
        told = [(name, shape, self.bytes_of(shape)) for name, shape in self.tensors()]
        metadata = self._metadata()
        with path.open("wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(told), len(metadata)) + b"".join(metadata))
            offset = 0
            for name, shape, size in told:
                kind = TENSOR_F32 if len(shape) == 1 else self.weights.tensor_type
                file.write(encode_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
                offset += padded(size)
            file.write(bytes(padded(file.tell()) - file.tell()))
            scale = struct.pack("<e", self.weights.scale)
            noise = b"".join(scale + os.urandom(self.weights.packed) for _ in range(2**18))
            for _, shape, size in told:
                _fill(file, size, struct.pack("<f", 1.0) * BLOCK if len(shape) == 1 else noise)
                file.write(bytes(padded(size) - size))

    def _metadata(self) -> list[bytes]:
        # three control tokens, one for each byte, and words that fill it up
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
        tokens += [f"\u2581word{number}" for number in range(self.vocabulary - len(tokens))]
        kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
        kinds += [NORMAL] * (self.vocabulary - len(kinds))
        values: list[tuple[str, int, Any]] = [
            ("general.architecture", STRING, "llama"),
            ("general.file_type", U32, self.weights.file_type),
            ("llama.context_length", U32, self.context),
            ("llama.embedding_length", U32, self.embedding),
            ("llama.block_count", U32, self.layers),
            ("llama.feed_forward_length", U32, self.feed_forward),
            ("llama.attention.head_count", U32, self.heads),
            ("llama.attention.head_count_kv", U32, self.kv_heads),
            ("llama.attention.key_length", U32, self.head),
            ("llama.attention.value_length", U32, self.head),
            ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
            ("llama.rope.dimension_count", U32, self.head),
            ("llama.rope.freq_base", F32, 500_000.0),
            ("llama.vocab_size", U32, self.vocabulary),
            ("tokenizer.ggml.model", STRING, "llama"),
            ("tokenizer.ggml.pre", STRING, "default"),
            ("tokenizer.ggml.tokens", STRING, tokens),
            ("tokenizer.ggml.scores", F32, [-float(number) for number in range(len(tokens))]),
            ("tokenizer.ggml.token_type", I32, kinds),
            ("tokenizer.ggml.unknown_token_id", U32, 0),
            ("tokenizer.ggml.bos_token_id", U32, 1),
            ("tokenizer.ggml.eos_token_id", U32, 2),
        ]
        return [encode_text(key) + encode(kind, value) for key, kind, value in values]


def _fill(file: BinaryIO, size: int, pattern: bytes) -> None:
    file.writelines(pattern for _ in range(size // len(pattern)))
    file.write(pattern[: size % len(pattern)])
