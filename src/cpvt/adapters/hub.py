"""Hugging Face's hub, from which weights are fetched, and what happens without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

ALTERNATIVES = "--checkpoint FILE (checkpoint=) or --checkpoint random"
SECONDS = 5.0  # to wait for the hub's answer


@contextmanager
def quick_hub(needed: bool = True) -> Iterator[bool]:
    """Inside, the hub's cache alone is read where the hub cannot be reached: at once, not after a minute of retries.

    needed: whether anything may be fetched at all. Yields whether the hub can be reached, or is not needed.
    """
    from huggingface_hub import constants

    reachable = not needed or (not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT))
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    """Whether anything answers at an address, in one try, by the hub's own client with its proxies and certificates."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=SECONDS)
    except Exception:  # of whichever client this version uses
        return False
    return True


def not_fetched(what: str, alternatives: str) -> ValueError:
    """The error for what is neither in the cache nor to be fetched."""
    return ValueError(
        f"{what} could not be fetched: Hugging Face's hub does not answer (or HF_HUB_OFFLINE is set), and there is no "
        f"copy in its cache here; connect, or pass {alternatives}"
    )
