"""Peak memory: only what is allocated after the mark counts."""

import platform
import subprocess
import sys
import types

import pytest

from cpvt.runtime import memory


def test_the_peak_counts_only_memory_after_the_mark():
    code = (
        "import torch; from cpvt.runtime.memory import mark_memory, peak_memory; "
        "before = torch.ones(200 << 18); held = mark_memory(); "
        "after = torch.ones(100 << 18); del after; print(peak_memory() - held)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(100 << 20, rel=0.1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such option")
def test_what_is_kept_for_later_tensors_is_not_in_use():
    code = (
        "import torch; from cpvt.runtime.memory import keep_freed_memory, mark_memory, peak_memory\n"
        "keep_freed_memory()\n"
        "def make(): return [torch.ones(1 << 18) for _ in range(100)]\n"
        "make(); held = mark_memory(); make(); print(peak_memory() - held)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(100 << 20, rel=0.1)


def test_the_c_library_is_asked_to_keep_what_is_free(monkeypatch):
    asked = []
    library = types.SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)))
    monkeypatch.setattr(memory, "_c_library", lambda: library)
    memory.keep_freed_memory()
    assert asked == [(-1, 1 << 30), (-3, 32 << 20)]  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


def test_a_c_library_without_the_option_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_c_library", types.SimpleNamespace)
    memory.keep_freed_memory()
    assert memory.mark_memory() > 0
