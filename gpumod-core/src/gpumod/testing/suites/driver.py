"""What every driver promises, as tests: subclass `DriverSuite` and give it a `case`."""

from __future__ import annotations

from gpumod.testing.suites.launching import Launching
from gpumod.testing.suites.options import ReadingOptions
from gpumod.testing.suites.powers import Powers
from gpumod.testing.suites.probing import Probing
from gpumod.testing.suites.telling import Telling


class DriverSuite(Launching, ReadingOptions, Probing, Powers, Telling):
    """Needs one fixture, `case`, that gives a :class:`gpumod.testing.DriverCase`.

    What the capabilities of its services declare is tested; what they do not declare must not be there.
    """
