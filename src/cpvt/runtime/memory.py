"""Memory of this process: its peak, and whether it keeps what tensors free."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT, LARGEST = 1 << 30, 32 << 20  # bytes: in all, and of a tensor; larger ones would leave gaps that no other fills


def keep_freed_memory() -> None:
    """Have this process keep the memory of freed tensors, up to 1 GiB, for those to come (glibc; elsewhere nothing).

    By default it goes back to the system, and each step of a training pays page faults to have it again.
    """
    with suppress(AttributeError, OSError, TypeError):
        _c_library().mallopt(M_TRIM_THRESHOLD, KEPT)
        _c_library().mallopt(M_MMAP_THRESHOLD, LARGEST)


def _c_library() -> Any:
    return ctypes.CDLL(None)


def mark_memory() -> int:
    """Reset the peak to the memory in use, if the system can (Linux); returns it, bytes."""
    with suppress(AttributeError, OSError, TypeError):
        _c_library().malloc_trim(0)  # what is free goes back to the system
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
