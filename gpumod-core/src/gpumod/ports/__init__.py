"""Ports: what the engine and plugins speak to. Adapters and plugins implement them; nothing here does I/O."""

from __future__ import annotations

from gpumod.domain.activity import Activity as Activity
from gpumod.ports.activity import ReportsActivity as ReportsActivity
from gpumod.ports.drivers import Capabilities as Capabilities
from gpumod.ports.drivers import ChecksVariables as ChecksVariables
from gpumod.ports.drivers import Driver as Driver
from gpumod.ports.drivers import FatalLine as FatalLine
from gpumod.ports.drivers import HostsMembers as HostsMembers
from gpumod.ports.drivers import MemberReading as MemberReading
from gpumod.ports.drivers import ModelInfo as ModelInfo
from gpumod.ports.drivers import ModelInfoSource as ModelInfoSource
from gpumod.ports.drivers import NamesMembers as NamesMembers
from gpumod.ports.drivers import OffersVariants as OffersVariants
from gpumod.ports.drivers import ProbeResult as ProbeResult
from gpumod.ports.drivers import ReadsItsLog as ReadsItsLog
from gpumod.ports.drivers import SleepStrategy as SleepStrategy
from gpumod.ports.drivers import VramEstimator as VramEstimator
from gpumod.ports.formats import FormatNeed as FormatNeed
from gpumod.ports.formats import NeedsFormats as NeedsFormats
from gpumod.ports.launch import Allocation as Allocation
from gpumod.ports.launch import GpuShare as GpuShare
from gpumod.ports.launch import Launch as Launch
from gpumod.ports.launch import LaunchFile as LaunchFile
from gpumod.ports.local import Holder as Holder
from gpumod.ports.local import Local as Local
from gpumod.ports.machine import Fetches as Fetches
from gpumod.ports.machine import GpuProbe as GpuProbe
from gpumod.ports.machine import NoticesEnd as NoticesEnd
from gpumod.ports.machine import NumbersGpus as NumbersGpus
from gpumod.ports.machine import Prepares as Prepares
from gpumod.ports.machine import ProcessStatus as ProcessStatus
from gpumod.ports.machine import Supervisor as Supervisor
from gpumod.ports.machine import TellsFindings as TellsFindings
from gpumod.ports.programs import Answer as Answer
from gpumod.ports.programs import AsksPrograms as AsksPrograms
from gpumod.ports.programs import SuitsItsProgram as SuitsItsProgram
from gpumod.ports.store import Simulation as Simulation
from gpumod.ports.store import Store as Store
from gpumod.ports.web import Clock as Clock
from gpumod.ports.web import Http as Http
from gpumod.ports.web import HttpFailure as HttpFailure
from gpumod.ports.web import HttpReply as HttpReply
