"""Where a result comes from: versions, commit, command and machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cpvt import __version__

PACKAGE = Path(__file__).parents[1]


def provenance() -> dict[str, Any]:
    """Versions, commit, command and machine of this process, as JSON takes them."""
    return {
        "versions": {"python": platform.python_version(), "cpvt": __version__}
        | {name: version(name) for name in ("torch", "timm")},
        "commit": commit_of(PACKAGE),
        "command": shlex.join(["cpvt" if "cpvt" in Path(sys.argv[0]).parts[-2:] else sys.argv[0], *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def commit_of(package: Path) -> str | None:
    """The commit of a package that lies in src/ of its own repository, with '+' if its files differ; else None."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel"), "src", package.name).resolve() != package.resolve():
            return None  # installed into a virtual environment inside some other repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
