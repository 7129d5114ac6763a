"""Files from the Hub, through huggingface_hub: its cache, endpoint, tokens, offline mode and progress; its errors in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.published import HubFile

RECIPE = "recipe.yaml"
CONNECT = "connect, unset HF_HUB_OFFLINE, or set HF_ENDPOINT or HF_HOME to where it is"
WANTED = [
    RECIPE,
    "*.json",
    "samples.png",
    "model*.safetensors",
    "ema*.safetensors",
    "tokenizer*.safetensors",
]  # what is read of a repository


@dataclass(frozen=True)
class Access:
    """How to reach a repository; the defaults are huggingface_hub's, which reads HF_TOKEN, HF_HOME and HF_ENDPOINT."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False


def file_of(wanted: HubFile) -> Path:
    """One published file, downloaded or from the cache. Its hash is not looked at here.

    Raises:
        ArgenzooError: offline, unknown, private or gated, no such file: and what to do.
    """
    with explained(wanted.repo, wanted.revision, wanted.file):
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))


def commit_of(wanted: HubFile) -> str:
    """The commit that a revision stands for now; one that is named in full need not be asked for. Raises as ``file_of`` does."""
    if re.fullmatch(r"[0-9a-f]{40}", wanted.revision):
        return wanted.revision
    try:
        commit = get_hf_file_metadata(hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision)).commit_hash
    except failures():
        commit = None
    return commit or file_of(wanted).parents[len(Path(wanted.file).parts) - 1].name  # offline the cache may know


def repository(name: str, access: Access | None = None) -> Path:
    """A whole repository in our format, as a folder of the cache. Raises as ``file_of`` does."""
    how = vars(access or Access())
    if "/" not in name:
        raise ArgenzooError(f"'{name}' is no folder here, and no repository's name: expected OWNER/NAME")
    with explained(name, how["revision"] or "main", RECIPE):
        hf_hub_download(name, RECIPE, **how)  # asked for alone, since a snapshot may lack it
    with explained(name, how["revision"] or "main", "weights"):
        return Path(snapshot_download(name, allow_patterns=WANTED, **how))


LOG_IN = "log in ('hf auth login', or HF_TOKEN)"
NO_NAME = "'{repo}' is no name of a repository: expected OWNER/NAME"
SAID: list[tuple[type[Exception], str]] = [  # the first that fits
    (GatedRepoError, f"{{repo}} is gated: accept its conditions on its page of the Hub, then {LOG_IN}"),
    (
        RepositoryNotFoundError,
        f"no folder {{repo}} here, and no repository {{repo}} on the Hub, or a private one: check the name, or {LOG_IN}",
    ),
    (RevisionNotFoundError, "repository {repo} has no revision {revision}"),
    (LocalEntryNotFoundError, f"{{repo}}/{{file}} is not in the cache, and {{why}}: {CONNECT}"),
    (OfflineModeIsEnabled, f"{{repo}}/{{file}} is not in the cache, and {{why}}: {CONNECT}"),
    (EntryNotFoundError, "repository {repo} has no file {file}{hint}"),
    (HFValidationError, NO_NAME),
    (HfHubHTTPError, "the Hub would not give {repo}/{file}: {error}"),
    (Exception, "{repo}/{file} could not be downloaded ({error}): try again"),
]


@contextmanager
def explained(repo: str, revision: str, file: str) -> Iterator[None]:
    """A download's errors as one line that says what to do."""
    try:
        yield
    except failures() as raised:
        error = raised.__cause__ if type(raised) is ValueError and isinstance(raised.__cause__, Exception) else raised  # of force_download
        words = {"repo": repo, "revision": revision, "file": file, "error": one_line(error), "why": unreached(error)}
        words["hint"] = nearest(repo, revision, file) if isinstance(error, EntryNotFoundError) else ""
        raise ArgenzooError(next(text for kind, text in SAID if isinstance(error, kind)).format(**words)) from None


def failures() -> tuple[type[Exception], ...]:
    """Of a request: huggingface_hub's, and its HTTP library's, which it lets through (httpx's are no OSError)."""
    libraries: list[Any] = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, ValueError, EntryNotFoundError, *(library.HTTPError for library in libraries))


@contextmanager
def refused(repo: str) -> Iterator[None]:
    """An upload's errors as one line that says what to do."""
    try:
        yield
    except HFValidationError:
        raise ArgenzooError(NO_NAME.format(repo=repo)) from None
    except failures() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        token = isinstance(error, LocalTokenNotFoundError) or status in (401, 403)
        advice = f": {LOG_IN}, with a token that may write there" if token else ""
        raise ArgenzooError(f"{repo} could not be uploaded{advice} ({one_line(error)})") from None


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def unreached(error: BaseException) -> str:
    """Whether the Hub was not asked, or did not answer."""
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return f"the Hub did not give it ({one_line(error.__cause__ or error)})"


def nearest(repo: str, revision: str, file: str) -> str:
    """For a file that is not there: whether the repository is ours, and its files with the nearest name."""
    try:
        files = HfApi().list_repo_files(repo, revision=revision)
    except failures():
        files = []
    return (" and is not in this zoo's format" if file == RECIPE else "") + suggestion(file, files)
