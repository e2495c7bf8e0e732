"""Peak memory: only what is allocated after the mark counts."""

import subprocess
import sys

import pytest


def test_the_peak_counts_only_memory_after_the_mark():
    code = (
        "import torch; from cpvt.runtime.memory import mark_memory, peak_memory; "
        "before = torch.ones(200 << 18); held = mark_memory(); "
        "after = torch.ones(100 << 18); del after; print(peak_memory() - held)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(100 << 20, rel=0.1)
