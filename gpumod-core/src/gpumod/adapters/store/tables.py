"""The tables. Columns are what is queried; `definition` is JSON for the rest of the value, checked when read.

Nothing is kept twice: a field is either a column or in `definition`. JSON is plain text here, because one broken
document must spoil its own row and no other. Annotations are evaluated as they stand here: as strings, each of them
would be compiled once more at every start.
"""

from sqlalchemy import Index, MetaData, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Row(SQLModel, registry=registry(metadata=metadata)):
    """Base of the tables, with metadata of its own: other users of SQLModel in the process do not meet ours."""

    # Rows are not validated by pydantic (the domain values are), so every start need not build their validators.
    model_config = {"defer_build": True}


class GpuProfileRow(Row, table=True):
    """A GPU of this machine as `gpumod init` saw it last."""

    __tablename__ = "gpu_profiles"
    gpu_index: int = Field(primary_key=True)
    name: str
    uuid: str
    total_mb: int
    architecture: str | None = None
    compute_capability: str | None = None


class ServiceRow(Row, table=True):
    """A service. `user_edited` is a JSON list of the fields that loading a preset again leaves alone."""

    __tablename__ = "services"
    id: str = Field(primary_key=True)
    driver: str
    port: int | None = None
    vram_mb: int
    role: str | None = None
    host: str | None = None
    definition: str
    user_edited: str = "[]"
    updated_at: float


class ModeRow(Row, table=True):
    __tablename__ = "modes"
    id: str = Field(primary_key=True)
    name: str
    description: str
    user_edited: bool = False
    updated_at: float


class ModeServiceRow(Row, table=True):
    """A member of a mode. It may name a service that is not defined (yet): the planner says so."""

    __tablename__ = "mode_services"
    mode_id: str = Field(primary_key=True, foreign_key="modes.id", ondelete="CASCADE")
    position: int = Field(primary_key=True)
    service_id: str = Field(index=True)
    want: str
    start_order: int
    idle_timeout: float | None = None


class ServiceTemplateRow(Row, table=True):
    """A service's own template, which wins over its driver's."""

    __tablename__ = "service_templates"
    service_id: str = Field(primary_key=True, foreign_key="services.id", ondelete="CASCADE")
    name: str = Field(primary_key=True)
    content: str
    updated_at: float


class SettingRow(Row, table=True):
    """A setting that was set. Keys with a dot are gpumod's own notes (the current mode)."""

    __tablename__ = "settings"
    key: str = Field(primary_key=True)
    value: str
    updated_at: float


class ModelRow(Row, table=True):
    """What is known about a model, as JSON, with the source of each field."""

    __tablename__ = "models"
    model: str = Field(primary_key=True)
    definition: str
    updated_at: float


class SimulationRow(Row, table=True):
    """A plan that was shown. `alternatives` is a JSON list of the ids that it offered."""

    __tablename__ = "simulations"
    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    at: float
    verdict: str
    alternatives: str
    definition: str


class HandleRow(Row, table=True):
    __tablename__ = "handles"
    service: str = Field(primary_key=True)
    supervisor: str
    nonce: str
    started_at: float
    definition: str


class LeaseRow(Row, table=True):
    """Memory that was made free for somebody."""

    __tablename__ = "leases"
    id: str = Field(primary_key=True)
    gpu: int
    vram_mb: int
    since: float
    until: float | None = None
    pid: int | None = None
    identity: str
    definition: str


class TurnRow(Row, table=True):
    """Somebody's place in the queue of turns with services; the number is higher than that of everybody before."""

    __tablename__ = "turns"
    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    service: str
    holder: str
    pid: int
    identity: str
    asked_at: float
    began_at: float | None = None
    before: str | None = None


class UseRow(Row, table=True):
    """When a service was used last, as far as it was seen."""

    __tablename__ = "uses"
    service: str = Field(primary_key=True)
    run: str
    served: float | None = None
    used_at: float
    seen_at: float


class RunRow(Row, table=True):
    __tablename__ = "runs"
    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    command: str
    holder: str
    status: str = Field(index=True)
    mode_before: str | None = None
    started_at: float
    ended_at: float | None = None
    error: str | None = None
    definition: str


class RunStepRow(Row, table=True):
    __tablename__ = "run_steps"
    __table_args__ = (UniqueConstraint("run_id", "phase", "n"),)
    seq: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(foreign_key="runs.id", ondelete="CASCADE")
    phase: str
    n: int
    status: str
    started_at: float | None = None
    seconds: float | None = None
    error: str | None = None
    detail: str = ""
    definition: str


class EventRow(Row, table=True):
    __tablename__ = "events"
    seq: int | None = Field(default=None, primary_key=True)
    at: float
    kind: str
    subject: str = Field(index=True)
    data: str


class VramSampleRow(Row, table=True):
    """A measurement of a service: MiB or seconds, by `kind`."""

    __tablename__ = "vram_samples"
    __table_args__ = (Index(None, "service", "key", "kind"),)
    seq: int | None = Field(default=None, primary_key=True)
    service: str
    key: str
    at: float
    kind: str
    value: float
