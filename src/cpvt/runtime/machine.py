"""What this machine is."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The system's full description of its processor."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux, or no leave to read
        return platform.processor()
