"""What an unfinished training needs to go on: written whole, read back only if whole, the one before kept beside it."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from cpvt.results import replacing

STATE, PREVIOUS = "training.pt", "training.previous.pt"
BROKEN = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)  # what reading a damaged file raises


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training; the last one stays beside it. An OSError, such as of a full disk, changes nothing."""
    whole = io.BytesIO()  # torch.save into a file would hide why a write failed
    torch.save(state, whole)
    with replacing(folder / STATE, keep=folder / PREVIOUS) as file:
        file.write(whole.getbuffer())


def read_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest state that is whole, None where none was written.

    A broken file is passed over with a warning. Raises ValueError where there are files and none is whole.
    """
    broken: list[str] = []
    for path in (folder / STATE, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = _read(path, device)
        except BROKEN as error:
            broken.append(f"'{path}' ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
            continue
        if broken:
            warnings.warn(f"{broken[0]} is not whole; going on from '{path}', which was saved before it", stacklevel=2)
        return state
    if broken:
        raise ValueError(
            f"no state to go on from is whole: {', '.join(broken)}. Delete them to train from the start again; the weights "
            f"of the last whole epoch, if any, are in '{folder}' and can be given to --initial-checkpoint of another run"
        )
    return None


def remove_state(folder: Path) -> None:
    """Delete what only an unfinished training needs."""
    for name in (PREVIOUS, STATE):  # this order: an interruption leaves the newer one
        (folder / name).unlink(missing_ok=True)


def has_state(folder: Path) -> bool:
    """Whether an unfinished training left something to go on from."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch reads damaged tensors without a word; the archive has check sums
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"'{damaged}' in it is damaged")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    state["training"] = json.loads(state["training"])
    return state


def fail_to_save(error: OSError, kept: str) -> OSError:
    """The error to raise where a save failed: what happened, what is kept, what to do."""
    return OSError(
        error.errno, f"saving failed ({os.strerror(error.errno) if error.errno else error}); {kept}. "
        "Make room (or mend the disk), then run the same command again",
    )  # fmt: skip
