"""Hand-made results, one or more of every result type: what the views are shown and compared with.

Those that hold plans and runs are in samples_plans.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.base import Frozen
from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service
from gpumod.operations import box_results as b
from gpumod.operations import results as r
from gpumod.operations import unit_results as u
from gpumod.operations.differences import fields_of


def _samples(name: str) -> Any:
    """A module of samples that lies beside this file."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plans = _samples("samples_plans")
adoption = _samples("samples_adoption")
plugins = _samples("samples_plugins")
use = _samples("samples_use")
CARD, ERROR = plans.CARD, plans.ERROR

GLM = Service(
    id="glm-code",
    name="Devstral Small 2 24B",
    driver="llamacpp",
    port=8081,
    vram_mb=19100,
    context_size=32768,
    kv_cache_per_1k=170,
    model_id="mistralai/Devstral-Small-2-24B-Instruct-2512",
    sleep_mode="router",
    role="code",
    depends_on=("embedding-code",),
    unit_vars={"n_gpu_layers": 99, "flash_attn": True},
)
EMBEDDING = Service(id="embedding-code", driver="vllm", port=8200, vram_mb=2500, sleep_mode="l1", role="embedding")

STATUS = r.StatusResult(
    mode="code",
    previous_mode="blank",
    gpus=(
        r.GpuStatus(
            index=0, name=CARD, total_mb=24564, used_mb=22500, free_mb=2064, reserve_mb=512, foreign_mb=900
        ),
    ),
    services=(
        r.ServiceStatus(
            id="embedding-code", driver="vllm", state="running", vram_mb=2500, sleep_level=None, health_ok=True,
            uptime_seconds=187.0, port=8200, pid=4242, last_error=None, gpus=(0,), vram_by_gpu={0: 2500},
            declared_mb=2500, in_mode=True,
        ),
        r.ServiceStatus(
            id="glm-code", driver="llamacpp", state="running", vram_mb=19100, sleep_level=None, health_ok=True,
            uptime_seconds=93784.0, port=8081, pid=4301, last_error=None, gpus=(0,), vram_by_gpu={0: 19100},
            declared_mb=19100, drift=("context_size",), in_mode=True,
        ),
        r.ServiceStatus(
            id="hyde", driver="vllm", state="sleeping", vram_mb=0, sleep_level="l1", health_ok=None,
            uptime_seconds=12.2, port=8201, pid=4400, last_error=None, adopted="user unit hyde.service",
            drift=("unit",),
        ),
        r.ServiceStatus(
            id="tts", driver="fastapi", state="failed", vram_mb=0, sleep_level=None, health_ok=False,
            uptime_seconds=None, port=8300, pid=None, last_error="exit code 3: no module named tts",
            adopted="process 4711",
        ),
        r.ServiceStatus(
            id="chat", driver="vllm", state="stopped", vram_mb=0, sleep_level=None, health_ok=None,
            uptime_seconds=None, port=8204, pid=None, last_error=None,
        ),
    ),
    foreign=(
        r.ForeignProcess(pid=1200, name="Xorg", vram_mb=600, gpu=0),
        r.ForeignProcess(pid=None, name="unattributed", vram_mb=300, gpu=0),
    ),
    ram_total_mb=64000,
    ram_available_mb=51000,
)  # fmt: skip
SETTING = r.SettingRow(
    key="reserve_mb", value="512", default="512", source="default", description="MiB of each GPU that no plan may use"
)

MEMBERS = (ModeMember(service="embedding"), ModeMember(service="hyde", want=Want.ASLEEP, start_order=2))
EDITS = (
    b.ObjectChange(
        kind="setting", id="reserve_mb", action="change", fields=(b.FieldChange(field="reserve_mb", old=512, new=700),)
    ),
    b.ObjectChange(
        kind="service",
        id="glm-code",
        action="change",
        fields=(
            b.FieldChange(field="port", old=None, new=8081),
            b.FieldChange(field="unit_vars.extra_args", old=["--a", "(secret)"], new=["--b"]),
        ),
    ),
    b.ObjectChange(kind="mode", id="code", action="add", fields=(b.FieldChange(field="name", new="Code"),)),
    b.ObjectChange(kind="service", id="chat", action="remove"),
    b.ObjectChange(
        kind="mode",
        id="rag",
        action="change",
        fields=tuple(fields_of(*(Mode(id="rag", members=members) for members in (MEMBERS[:1], MEMBERS)))),
    ),
)
DRIFT = tuple(
    b.DriftRow(service=s, fields=("port", "unit_vars"), command=f"gpumod service restart {s}") for s in ("tts", "asr")
)
ALTERED = "alternative a1b2c3 (glm-code with 8192 tokens of context) of mode code"
ALTERED_ROW = (DRIFT[0].model_copy(update={"altered": ALTERED}),)
BESIDE = {"source": "box.yaml", "unnamed": ("mode rag",), "drift": DRIFT, "notes": ("bin_path is left as it is",)}

UNIT = u.UnitResult(
    service="glm-code",
    supervisor="systemd-user",
    unit="gpumod-glm-code.service",
    path="/home/ann/.config/systemd/user/gpumod-glm-code.service",
    template="llamacpp.service.j2",
    text="[Service]\nExecStart=/bin/x\n",
    there=True,
    edited=True,
    difference="--- there\n+++ would be written\n@@ -1,2 +1,2 @@\n [Service]\n-ExecStart=/bin/y\n+ExecStart=/bin/x",
)
TEMPLATE = u.TemplateResult(
    name="vllm.service.j2",
    source="yours",
    path="/home/ann/t/vllm.service.j2",
    text="{% extends x %}\n",
    services=("tts",),
)

SAMPLES: dict[str, Frozen] = {
    **adoption.SAMPLES,
    **plugins.SAMPLES,
    **use.SAMPLES,
    "init": r.InitResult(
        home="/home/ann/.local/share/gpumod",
        created=("gpumod.db", "sim"),
        settings={"gpu_probe": "sim", "supervisor": "process"},
        services=("chat", "glm-code"),
        modes=("blank", "code"),
        problems=(ERROR,),
        next=("gpumod status", "gpumod simulate --mode code --visual"),
    ),
    "status": STATUS,
    "status-leases": STATUS.model_copy(
        update={
            "leases": (plans.LEASE,),
            "put_back": "chat made room: gpumod free --back",
            "turns": ("ann: python ask.py (pid 7) has a turn with hyde", "bob (pid 8) waits for chat"),
        }
    ),
    "status-empty": r.StatusResult(mode=None, gpus=(), services=(), foreign=(), open_run="r-7f3a", busy="ann, pid 812"),
    "service-status": STATUS.services[1],
    "service-status-altered": STATUS.services[1].model_copy(update={"altered": ALTERED}),
    "ps": r.PsResult(
        processes=(
            r.PsRow(pid=4301, name="llama-server", service="glm-code", gpu=0, vram_mb=19100),
            r.PsRow(pid=1200, name="Xorg", service=None, gpu=0, vram_mb=None),
        )
    ),
    "ps-leases": r.PsResult(processes=(), leases=(plans.LEASE,)),
    "ps-empty": r.PsResult(processes=()),
    "doctor": r.DoctorResult(
        ok=False,
        checks=(
            r.Check(name="gpu", level="ok", message="1 GPU, 24564 MB"),
            r.Check(name="vllm", level="problem", message="not found", hint="set vllm_bin to the program's path"),
            r.Check(name="disk", level="warning", message="120 MB free"),
            r.Check(name="polkit", level="unknown", message="you may not read its rules"),
        ),
    ),
    "doctor-warned": r.DoctorResult(
        ok=False, checks=tuple(r.Check(name=f"disk {n}", level="warning", message="120 MB free") for n in (1, 2))
    ),
    "doctor-well": r.DoctorResult(
        ok=True,
        checks=(r.Check(name="polkit", level="unknown", message="you may not read its rules", hint="docs/systemd.md"),),
    ),
    "mode-list": r.ModeListResult(
        modes=(
            r.ModeRow(id="blank", name="Blank", description="nothing", services=(), current=False, declared_mb=0),
            r.ModeRow(
                id="code",
                name="Code",
                description="",
                services=("embedding-code", "glm-code"),
                current=True,
                declared_mb=21600,
            ),
        ),
        current="code",
    ),
    "mode": r.ModeResult(
        mode=Mode(
            id="rag",
            name="RAG",
            description="retrieval with rerankers",
            members=(
                ModeMember(service="embedding"),
                ModeMember(service="chat", want=Want.TIME_SHARED, start_order=1, idle_timeout=90),
                ModeMember(service="hyde", want=Want.TIME_SHARED, start_order=1, idle_timeout=0),
            ),
        ),
        services=("embedding", "chat", "hyde"),
    ),
    "mode-status": r.ModeStatusResult(
        mode="code",
        current=True,
        whole=False,
        members=(
            r.ModeMemberStatus(service="embedding-code", wanted="awake", state="running", ok=True),
            r.ModeMemberStatus(service="glm-code", wanted="awake", state="failed", ok=False, detail="exit code 1"),
        ),
        extra=("chat",),
        alternative="a1b2c3",
        notes=("it runs with alternative a1b2c3 (glm-code with 8192 tokens of context)",),
    ),
    "deleted": r.DeletedResult(kind="mode", id="code"),
    "service-list": r.ServiceListResult(services=(EMBEDDING, GLM), problems=(ERROR,)),
    "service": r.ServiceResult(
        service=GLM,
        footprint=Footprint(
            service="glm-code",
            vram_mb=18950,
            start_peak_mb=19100,
            asleep_mb=600,
            sources={"vram_mb": Source.MEASURED, "start_peak_mb": Source.DECLARED},
            why="measured 18950 on this card; declared 19100",
            start_s=41.5,
            stop_s=0.8,
        ),
        edited=("vram_mb",),
        modes=("code",),
        drift=("context_size",),
        apply="gpumod service restart glm-code",
    ),
    "service-altered": r.ServiceResult(
        service=EMBEDDING,
        footprint=Footprint(service="embedding-code", vram_mb=2500, start_peak_mb=2500),
        drift=("context_size",),
        altered=ALTERED,
        apply="gpumod service restart embedding-code",
    ),
    "logs": r.LogsResult(service="glm-code", lines=("loading model", "\tcuda: 24 GB", "ready"), path="/tmp/x.log"),
    "preset-list": r.PresetListResult(
        presets=(
            r.PresetRow(
                id="glm-code",
                kind="service",
                name="Devstral Small 2 24B",
                source="llm/glm-code.yaml",
                distribution="gpumod-presets",
                loaded=True,
                edited=("vram_mb",),
            ),
            r.PresetRow(
                id="code",
                kind="mode",
                name="Code",
                source="modes/code.yaml",
                distribution="gpumod-presets",
                loaded=False,
            ),
        ),
        problems=(ERROR,),
    ),
    "preset": r.PresetResult(
        id="code", kind="mode", source="modes/code.yaml", yaml="id: code\nservices:\n  - service: glm-code\n"
    ),
    "preset-load": r.PresetLoadResult(
        added=("chat",), updated=("code",), unchanged=("asr", "tts"), kept={"glm-code": ("vram_mb",)}, problems=(ERROR,)
    ),
    "preset-load-nothing": r.PresetLoadResult(added=(), updated=(), unchanged=()),
    "preset-validate": r.PresetValidateResult(ok=False, checked=9, problems=(ERROR,)),
    "export": b.ExportResult(yaml="version: 1\nservices:\n- id: chat\n", left_out=("service chat: env.HF_TOKEN",)),
    "diff": b.DiffResult(changes=EDITS, **BESIDE),
    "diff-altered": b.DiffResult(source="box.yaml", changes=(), drift=ALTERED_ROW),
    "diff-nothing": b.DiffResult(source="box.yaml", changes=()),
    "apply": b.ApplyResult(changes=EDITS, applied=True, **BESIDE),
    "apply-nothing": b.ApplyResult(source="stdin", changes=(), applied=True),
    "apply-brought": b.ApplyResult(source="box.yaml", changes=(), applied=True, change=plans.RESTARTED),
    "apply-rolled-back": b.ApplyResult(source="box.yaml", changes=EDITS[:1], change=plans.ROLLED_BACK),
    "apply-dry-run": b.ApplyResult(source="box.yaml", changes=EDITS[:1], dry_run=True),
    "unit": UNIT,
    "unit-new": UNIT.model_copy(update={"there": False, "difference": ""}),
    "unit-same": UNIT.model_copy(update={"difference": ""}),
    "unit-written": UNIT.model_copy(update={"written": True}),
    "template-list": u.TemplateListResult(
        templates=(
            u.TemplateRow(name="unit.service.j2", source="gpumod", path="/usr/lib/gpumod/unit.service.j2"),
            u.TemplateRow(name="vllm.service.j2", source="yours", path="/home/ann/t/vllm.service.j2", hides=("vllm",)),
        ),
        folder="/home/ann/t",
    ),
    "template": TEMPLATE,
    "template-changed": TEMPLATE.model_copy(update={"changed": True}),
    "template-gone": u.TemplateResult(name="x.j2", source="", path="", text="", changed=True),
    "secrets": u.SecretsResult(
        service="glm-code", names=("API_KEY", "HF_TOKEN"), apply="gpumod service restart glm-code"
    ),
    "secrets-none": u.SecretsResult(service="glm-code", names=()),
    "setting": SETTING,
    "settings": r.SettingsResult(
        settings=(SETTING, SETTING.model_copy(update={"key": "models_dir", "value": None, "source": "environment"}))
    ),
} | plans.SAMPLES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `sample` gets every one, with its `name`."""
    if "sample" in metafunc.fixturenames:
        metafunc.parametrize(("name", "sample"), list(SAMPLES.items()), ids=list(SAMPLES))


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moments are shown in local time: here that is UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()
