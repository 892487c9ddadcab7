"""Presets: YAML files that define services and modes."""

from gpumod.adapters.presets.box import bad_box, dump_box, read_box
from gpumod.adapters.presets.dump import dump_mode_preset, dump_service_preset
from gpumod.adapters.presets.expand import expand_given
from gpumod.adapters.presets.load import load_presets
from gpumod.adapters.presets.merge import merge_for_reload
from gpumod.adapters.presets.schema import mode_schema, service_schema

__all__ = [
    "bad_box",
    "dump_box",
    "dump_mode_preset",
    "dump_service_preset",
    "expand_given",
    "load_presets",
    "merge_for_reload",
    "mode_schema",
    "read_box",
    "service_schema",
]
