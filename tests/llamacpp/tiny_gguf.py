"""Tiny models with random weights that a real llama-server loads and serves, and files that it cannot load.

The text that comes out is garbage; real are the loader, the tokenizer, the KV cache and HTTP. GGUF is written by hand,
so that no package is needed: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

VERSION, ALIGNMENT = 3, 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
"""Types of metadata values."""
TENSOR_F32, TENSOR_F16 = 0, 1
CONTROL, NORMAL, UNKNOWN, BYTE = 3, 1, 2, 6
"""Types of tokens."""
VOCABULARY, HEADS, KV_HEADS, HEAD_SIZE, CONTEXT = 512, 4, 2, 64, 8192
CHATML = (
    "{% for m in messages %}{{'<|' + m['role'] + '|>' + m['content']}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|assistant|>'}}{% endif %}"
)


class Tensor(NamedTuple):
    """A tensor: `shape` as ggml counts it (the row's length first), its type and whether it holds ones."""

    name: str
    shape: tuple[int, ...]
    kind: int = TENSOR_F16
    ones: bool = False

    @property
    def count(self) -> int:
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)

    @property
    def size(self) -> int:
        return self.count * (2 if self.kind == TENSOR_F16 else 4)


def write_llama(path: Path, *, embedding: int = 128, layers: int = 4, feed_forward: int = 256) -> Path:
    """A model of the llama architecture: 917 thousand weights in f16, 1.8 MB, with the sizes as they are."""
    return _write(path, _metadata(path.stem, embedding, layers, feed_forward), embedding, layers, feed_forward)


def write_large(path: Path, *, layers: int = 6) -> Path:
    """A model of zeros that takes about 53 MB a layer, as a file with holes: written in no time."""
    shape = {"embedding": 2048, "layers": layers, "feed_forward": 4096}
    return _write(path, _metadata(path.stem, **shape), **shape, holes=True)


def write_broken(folder: Path, good: Path) -> dict[str, Path]:
    """Files that no llama.cpp loads, by what is wrong with them; made from a good one."""
    whole = good.read_bytes()
    contents = {"magic": b"XXXX" + whole[4:], "truncated": whole[: len(whole) // 2], "empty": b""}
    # an architecture that nobody knows
    contents["architecture"] = whole.replace(b"llama.", b"lxxma.").replace(
        encode_text("llama"), encode_text("lxxma"), 1
    )
    paths = {name: folder / f"corrupt-{name}.gguf" for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def _write(
    path: Path, metadata: Sequence[bytes], embedding: int, layers: int, feed_forward: int, *, holes: bool = False
) -> Path:
    tensors = list(_tensors(embedding, layers, feed_forward))
    rng = random.Random(7)
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)) + b"".join(metadata))
        offset = 0
        for tensor in tensors:
            file.write(encode_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", tensor.kind, offset))
            offset += padded(tensor.size)
        start = padded(file.tell())
        for tensor in tensors:
            file.seek(start)
            if not holes or tensor.ones:
                _fill(file, tensor, rng)
            start += padded(tensor.size)
        file.truncate(start)
    return path


def _fill(file: BinaryIO, tensor: Tensor, rng: random.Random) -> None:
    spread = tensor.shape[0] ** -0.5
    values = [1.0] * tensor.count if tensor.ones else [rng.gauss(0, spread) for _ in range(tensor.count)]
    file.write(struct.pack(f"<{tensor.count}{'e' if tensor.kind == TENSOR_F16 else 'f'}", *values))


def _tensors(embedding: int, layers: int, feed_forward: int) -> Iterator[Tensor]:
    yield Tensor("token_embd.weight", (embedding, VOCABULARY))
    yield Tensor("output_norm.weight", (embedding,), TENSOR_F32, ones=True)
    yield Tensor("output.weight", (embedding, VOCABULARY))
    for layer in range(layers):
        block = f"blk.{layer}."
        yield Tensor(block + "attn_norm.weight", (embedding,), TENSOR_F32, ones=True)
        yield Tensor(block + "attn_q.weight", (embedding, HEADS * HEAD_SIZE))
        yield Tensor(block + "attn_k.weight", (embedding, KV_HEADS * HEAD_SIZE))
        yield Tensor(block + "attn_v.weight", (embedding, KV_HEADS * HEAD_SIZE))
        yield Tensor(block + "attn_output.weight", (HEADS * HEAD_SIZE, embedding))
        yield Tensor(block + "ffn_norm.weight", (embedding,), TENSOR_F32, ones=True)
        yield Tensor(block + "ffn_gate.weight", (embedding, feed_forward))
        yield Tensor(block + "ffn_up.weight", (embedding, feed_forward))
        yield Tensor(block + "ffn_down.weight", (feed_forward, embedding))


def _metadata(name: str, embedding: int, layers: int, feed_forward: int) -> list[bytes]:
    tokens, kinds = _vocabulary()
    values: list[tuple[str, int, Any]] = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, name),
        ("general.file_type", U32, 1),
        ("llama.context_length", U32, CONTEXT),
        ("llama.embedding_length", U32, embedding),
        ("llama.block_count", U32, layers),
        ("llama.feed_forward_length", U32, feed_forward),
        ("llama.attention.head_count", U32, HEADS),
        ("llama.attention.head_count_kv", U32, KV_HEADS),
        ("llama.attention.key_length", U32, HEAD_SIZE),
        ("llama.attention.value_length", U32, HEAD_SIZE),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-6),
        ("llama.rope.dimension_count", U32, HEAD_SIZE),
        ("llama.rope.freq_base", F32, 10000.0),
        ("llama.vocab_size", U32, VOCABULARY),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.pre", STRING, "default"),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.scores", F32, [-float(number) for number in range(len(tokens))]),
        ("tokenizer.ggml.token_type", I32, kinds),
        ("tokenizer.ggml.unknown_token_id", U32, 0),
        ("tokenizer.ggml.bos_token_id", U32, 1),
        ("tokenizer.ggml.eos_token_id", U32, 2),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.chat_template", STRING, CHATML),
    ]
    return [encode_text(key) + encode(kind, value) for key, kind, value in values]


def _vocabulary() -> tuple[list[str], list[int]]:
    """Three control tokens, every byte, what ASCII prints, and words that fill it up."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    tokens += ["\u2581", *map(chr, range(33, 127))]
    tokens += [f"\u2581word{number}" for number in range(VOCABULARY - len(tokens))]
    return tokens, kinds + [NORMAL] * (VOCABULARY - len(kinds))


def encode(kind: int, value: Any) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = b"".join(_scalar(kind, item) for item in value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    return struct.pack("<I", kind) + _scalar(kind, value)


def _scalar(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return encode_text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def encode_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


if __name__ == "__main__":
    write_llama(Path(sys.argv[1]))
