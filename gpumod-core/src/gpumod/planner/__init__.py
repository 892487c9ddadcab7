"""The planner: from what is and what is wanted to the steps between. Pure: no I/O, no clock."""

from gpumod.planner.changes import apply_changes
from gpumod.planner.make import make_plan
from gpumod.planner.needs import check_needs
from gpumod.planner.rollback import target_of
from gpumod.planner.room import Room, make_room

__all__ = ["Room", "apply_changes", "check_needs", "make_plan", "make_room", "target_of"]
