"""Answers of models that do not exist: they depend on the question alone."""

from __future__ import annotations

import hashlib

MAX_WORDS = 4096


def words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(min(count, MAX_WORDS)))


def embedding(text: str) -> list[float]:
    """Eight numbers between -0.5 and 0.5."""
    return [byte / 255 - 0.5 for byte in hashlib.blake2s(text.encode(), digest_size=8).digest()]


def similarity(one: str, other: str) -> float:
    """The share of words that two texts have in common, 0 to 1."""
    mine, theirs = set(one.lower().split()), set(other.lower().split())
    return len(mine & theirs) / max(1, len(mine | theirs))
