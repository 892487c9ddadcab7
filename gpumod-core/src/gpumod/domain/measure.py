"""Under which key measurements are kept: the same launch on the same cards gives the same key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from gpumod.domain.service import Service

LAUNCH_FIELDS = (
    "driver",
    "model_id",
    "model_path",
    "context_size",
    "vram_mb",
    "sleep_mode",
    "unit_template",
    "unit_vars",
    "gpus",
    "host",
    "run_with",
)
"""The fields of a service that change what it takes. `vram_mb` is one: where the user gives no explicit share of the
card the driver computes it from there, so an edited number must not be answered by an old measurement. `sleep_mode`
is another: a runtime that can sleep allocates differently. Id, name, port, role, dependencies, timeouts and the
like change nothing."""


def sample_key(service: Service, gpu_names: Sequence[str]) -> str:
    """The key of measurements: 16 hex digits over :data:`LAUNCH_FIELDS` and the GPUs' names.

    `gpu_names` are the names of the GPUs that it runs on, in any order (two equal cards count twice).
    """
    launch = service.model_dump(mode="json", include=set(LAUNCH_FIELDS))
    content = json.dumps([launch, sorted(gpu_names)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
