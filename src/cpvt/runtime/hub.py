"""Hugging Face's hub: what is fetched from it and sent to it, and what happens without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpvt import __version__
from cpvt.runtime.errors import error_line

PREFIX = "hf-hub:"  # of names, as timm has it
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"  # files of a repository; CONFIG is timm's
ALTERNATIVES = "--checkpoint FILE (checkpoint=) or --checkpoint random"
SECONDS = 5.0  # to wait for the hub's answer


def is_hub(name: object) -> bool:
    """Whether a name is of a model on the hub: "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION"."""
    return str(name).startswith(PREFIX)


def fetch(name: str, *records: str, **options: Any) -> Path:
    """The folder of the hub's cache with a model's weights and whichever of `records` there are, fetched as needed.

    name: "OWNER/NAME", "OWNER/NAME@REVISION", with "hf-hub:" or without. options: huggingface_hub's revision, token,
    cache_dir, force_download and local_files_only. Weights are safetensors; nothing else is fetched, nothing unpickled.
    Raises ValueError for what is not on the hub, private, incomplete, or neither reachable nor in the cache.
    """
    from huggingface_hub import errors, snapshot_download

    named, (repo, _, revision) = f"'{PREFIX}{name.removeprefix(PREFIX)}'", name.removeprefix(PREFIX).partition("@")
    options["revision"] = revision or options.get("revision")
    with quick_hub(not options.get("local_files_only")) as reachable, _explained(named):
        try:
            folder = Path(snapshot_download(repo, allow_patterns=[WEIGHTS, *records], **options))
        except errors.LocalEntryNotFoundError as error:
            raise not_fetched(named, "a folder with its files") from error
    lacks = [] if (folder / WEIGHTS).is_file() else [WEIGHTS]
    lacks += [] if any((folder / each).is_file() for each in records) else [" or ".join(records)]
    if lacks and not reachable:
        raise not_fetched(f"{' and '.join(lacks)} of {named}", "a folder with its files")
    if lacks:
        raise ValueError(
            f"{named} holds no {' and no '.join(lacks)}{_listed(repo, options)}. Weights are read from safetensors "
            "alone, and nothing is unpickled; push_to_hub of cpvt's models, or of timm with safe_serialization=True, "
            "writes such files"
        )
    return folder


def push(
    write: Callable[[Path, str], Any],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    **options: Any,
) -> str:
    """Send what `write` puts into a folder to a repository of the hub, created if needed; returns the commit's address.

    write: called with the folder and the repository's full name. options: those of huggingface_hub's upload_folder,
    such as commit_message, create_pr and ignore_patterns. Raises ValueError where the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="cpvt", library_version=__version__)
    with quick_hub() as reachable, _explained(f"'{repo_id}'"), tempfile.TemporaryDirectory() as folder:
        if not reachable:
            raise ValueError(
                f"'{repo_id}' was not sent: Hugging Face's hub does not answer (or HF_HUB_OFFLINE is set); connect, or "
                "write the files by save_pretrained(FOLDER) and send them later: hf upload"
            )
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write(Path(folder), repo_id)
        sent: Any = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, **options)
    return str(sent.commit_url)


@contextmanager
def _explained(named: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into a ValueError that says what to do."""
    from huggingface_hub import errors

    # of httpx or requests: its error of all errors, for lost connections are no HTTPError of requests
    failed: Any = [kind for kind in errors.HfHubHTTPError.__mro__ if kind not in OSError.__mro__][-1]
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(
            f"{named} is no name of the hub: expected OWNER/NAME, or {PREFIX}OWNER/NAME@REVISION"
        ) from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{named} asks for its conditions to be accepted: accept them on its page, then log in (hf auth login, or "
            "the variable HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{named} is not on the hub, or is private: check OWNER/NAME; for a private one log in (hf auth login) or "
            "set the variable HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{named} has no such revision on the hub: name a branch, a tag or a commit of it") from error
    except failed as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; log in (hf auth login) or set the variable HF_TOKEN, with a token that may do this"
        raise ValueError(
            f"the hub did not serve {named}: {error_line(error)}{hint if status in (401, 403) else ''}"
        ) from error


def _listed(repo: str, options: dict[str, Any]) -> str:
    """The names of a repository's files, for a message; empty where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        names = HfApi(token=options.get("token")).list_repo_files(repo, revision=options["revision"])
    except Exception:  # the message goes without them
        return ""
    shown = sorted(name for name in names if not name.startswith("."))
    return f", but {', '.join(shown[:8]) or 'nothing'}{', ...' if len(shown) > 8 else ''}"


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
