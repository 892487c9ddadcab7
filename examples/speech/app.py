"""Speech to text that sleeps: POST a sound file to /v1/audio/transcriptions, get its text as JSON."""

from __future__ import annotations

import gc
import os

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from transcribers import Transcriber, transcriber_of

from gpumod_fastapi.sleepable import Sleepable

model: Transcriber | None = None


def load() -> None:
    """When the server starts, and at every wake."""
    global model  # noqa: PLW0603  # one model in one process is all that this app has
    model = transcriber_of(os.environ.get("SPEECH_TRANSCRIBER", "transcribers:Whisper"))


def unload() -> None:
    """At every sleep: the GPU has its memory back when nothing refers to the model any more."""
    global model  # noqa: PLW0603  # as above
    model = None
    gc.collect()


app = FastAPI(title="Speech to text")
app.add_middleware(Sleepable, load=load, unload=unload)


@app.post("/v1/audio/transcriptions")
async def transcribe(request: Request) -> dict[str, str]:
    """The body is the sound file itself. 422 for one that cannot be read."""
    audio = await request.body()
    assert model is not None  # noqa: S101  # Sleepable lets no request in while there is none
    try:
        return {"text": await run_in_threadpool(model.transcribe, audio)}
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
