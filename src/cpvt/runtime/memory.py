"""Peak memory of this process."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path


def mark_memory() -> int:
    """Reset the peak to the present memory, if the system can (Linux); returns it, bytes."""
    if Path("/proc/self/clear_refs").exists():
        with suppress(OSError):  # not permitted: the peak stays
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The peak of this process since the last `mark_memory` (outside Linux: since its start), bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
