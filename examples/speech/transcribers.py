"""What turns sound into text. SPEECH_TRANSCRIBER chooses one, as `module:Class`."""

from __future__ import annotations

import importlib
import io
import os
import wave
from typing import Protocol


class Transcriber(Protocol):
    """Made when the model is to be loaded; the model is gone when the object is."""

    def transcribe(self, audio: bytes) -> str: ...


def transcriber_of(name: str) -> Transcriber:
    module, _, made = name.partition(":")
    transcriber: Transcriber = getattr(importlib.import_module(module), made)()
    return transcriber


class Whisper:
    """Whisper on the GPU, by faster-whisper (`pip install faster-whisper`); SPEECH_MODEL names the model."""

    def __init__(self) -> None:
        from faster_whisper import WhisperModel  # noqa: PLC0415  # large; only who uses it needs it

        self._model = WhisperModel(os.environ.get("SPEECH_MODEL", "large-v3"), device="cuda", compute_type="float16")

    def transcribe(self, audio: bytes) -> str:
        segments, _ = self._model.transcribe(io.BytesIO(audio))
        return " ".join(segment.text.strip() for segment in segments)


class StandIn:
    """Not a transcriber: it tells how long a WAV file is. For trying the app where there is no model and no GPU."""

    def transcribe(self, audio: bytes) -> str:
        """Raises ValueError for what is no WAV file."""
        try:
            with wave.open(io.BytesIO(audio)) as sound:
                return f"{sound.getnframes() / sound.getframerate():.1f} seconds of sound"
        except (wave.Error, EOFError) as error:
            raise ValueError(f"no WAV file: {error}") from error
