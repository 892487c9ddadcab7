"""The public names, for plugin authors."""

from gpumod.domain.adopted import Adopted
from gpumod.domain.base import is_id
from gpumod.domain.errors import DoesNotFit, Failed, GpumodError, MachineLacks, UnknownName, UsageError
from gpumod.domain.footprint import Estimate, Footprint, Source
from gpumod.domain.machine import Finding, GpuProcess, GpuReading, Ram
from gpumod.domain.plan import AlternativeKind, Variant
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.commands import Flag, gpus_in, keep_flags, read_flags, words_from
from gpumod.plugins.hookspecs import hookimpl
from gpumod.plugins.kit import (
    CONTAINER,
    Args,
    Env,
    Options,
    Word,
    busy,
    metric_sum,
    parse_fields,
    parse_options,
    poll,
    refuse_flags,
)
from gpumod.plugins.loglines import LogRule, first_fatal
from gpumod.plugins.offers import (
    PLUGIN_API,
    DriverOffer,
    GpuProbeOffer,
    ModelInfoSourceOffer,
    PresetsOffer,
    SleepStrategyOffer,
    SupervisorOffer,
    TemplatesOffer,
    VramEstimatorOffer,
)
from gpumod.ports import (
    Activity,
    Allocation,
    Answer,
    AsksPrograms,
    Capabilities,
    ChecksVariables,
    Clock,
    Driver,
    FatalLine,
    FormatNeed,
    GpuProbe,
    GpuShare,
    HostsMembers,
    Http,
    HttpFailure,
    HttpReply,
    Launch,
    LaunchFile,
    MemberReading,
    ModelInfo,
    ModelInfoSource,
    NeedsFormats,
    NumbersGpus,
    OffersVariants,
    ProbeResult,
    ProcessStatus,
    ReadsItsLog,
    ReportsActivity,
    SleepStrategy,
    SuitsItsProgram,
    Supervisor,
    TellsFindings,
    VramEstimator,
)
from gpumod.ports.commands import CommandLine, ReadsCommands, Told
from gpumod.ports.drivers import NamesMembers
from gpumod.ports.foreign import ContainerFacts
from gpumod.ports.units import Left, Stray

__all__ = [
    "CONTAINER", "PLUGIN_API", "Activity", "Adopted", "Allocation", "AlternativeKind", "Answer", "Args", "AsksPrograms",
    "Capabilities", "ChecksVariables", "Clock", "CommandLine", "ContainerFacts", "DoesNotFit", "Driver", "DriverOffer",
    "Env", "Estimate", "Failed", "FatalLine", "Finding", "Flag", "Footprint", "FormatNeed", "GpuProbe", "GpuProbeOffer",
    "GpuProcess", "GpuReading", "GpuShare", "GpumodError", "Handle", "HostsMembers", "Http", "HttpFailure", "HttpReply",
    "Launch", "LaunchFile", "Left", "LogRule", "MachineLacks", "MemberReading", "ModelInfo", "ModelInfoSource",
    "ModelInfoSourceOffer", "NamesMembers", "NeedsFormats", "NumbersGpus", "OffersVariants", "Options", "PresetsOffer",
    "ProbeResult", "ProcessStatus", "Ram", "ReadsCommands", "ReadsItsLog", "ReportsActivity", "Service", "Settings",
    "SleepStrategy", "SleepStrategyOffer", "Source", "Stray", "SuitsItsProgram", "Supervisor", "SupervisorOffer",
    "TellsFindings", "TemplatesOffer", "Told", "UnknownName", "UsageError", "Variant", "VramEstimator",
    "VramEstimatorOffer", "Word", "busy", "first_fatal", "gpus_in", "hookimpl", "is_id", "keep_flags", "metric_sum",
    "parse_fields", "parse_options", "poll", "read_flags", "refuse_flags", "words_from",
]  # fmt: skip
