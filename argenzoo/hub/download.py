"""Files from the Hub, through huggingface_hub: its cache, endpoint, tokens, offline mode and progress; its errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
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
OURS = [RECIPE, "*.json", "model*.safetensors", "ema*.safetensors", "tokenizer*.safetensors"]  # what is read of a repository


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
    """The commit that a revision stands for now; one that is named in full need not be asked for."""
    if re.fullmatch(r"[0-9a-f]{40}", wanted.revision):
        return wanted.revision
    return file_of(wanted).parents[len(Path(wanted.file).parts) - 1].name


def repository(name: str, access: Access | None = None) -> Path:
    """A whole repository in our format, as a folder of the cache. Raises as ``file_of`` does."""
    how = vars(access or Access())
    if "/" not in name:
        raise ArgenzooError(f"'{name}' is no folder here, and no repository's name: expected OWNER/NAME")
    with explained(name, how["revision"] or "main", RECIPE):
        hf_hub_download(name, RECIPE, **how)  # asked for alone, since a snapshot may lack it
        return Path(snapshot_download(name, allow_patterns=OURS, **how))


@contextmanager
def explained(repo: str, revision: str, file: str) -> Iterator[None]:
    """huggingface_hub's errors as one line that says what to do."""
    try:
        yield
    except GatedRepoError:
        raise ArgenzooError(
            f"{repo} is gated: accept its conditions on its page of the Hub, then log in ('hf auth login', or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise ArgenzooError(
            f"no folder {repo} here, and no repository {repo} on the Hub, or a private one: check the name, "
            "or log in ('hf auth login', or HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise ArgenzooError(f"repository {repo} has no revision {revision}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ArgenzooError(offline(repo, file, error)) from None
    except EntryNotFoundError:
        kind = " and is not in this zoo's format" if file == RECIPE else ""
        raise ArgenzooError(f"repository {repo} has no file {file}{kind}{suggestion(file, files_in(repo, revision))}") from None
    except HFValidationError:
        raise ArgenzooError(f"'{repo}' is no name of a repository: expected OWNER/NAME") from None
    except HfHubHTTPError as error:
        raise ArgenzooError(f"the Hub would not give {repo}/{file}: {one_line(error)}") from None
    except OSError as error:
        raise ArgenzooError(f"{repo}/{file} could not be downloaded ({one_line(error)}); what has arrived is kept: try again") from None


@contextmanager
def refused(repo: str) -> Iterator[None]:
    """An upload's errors as one line that says what to do."""
    try:
        yield
    except HFValidationError:
        raise ArgenzooError(f"'{repo}' is no name of a repository: expected OWNER/NAME") from None
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        may = " with a token that may write there ('hf auth login', or HF_TOKEN)" if status in (None, 401, 403) else ""
        raise ArgenzooError(f"{repo} could not be uploaded{may and ': log in' + may} ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def offline(repo: str, file: str, error: Exception) -> str:
    """Whether the Hub was not asked, or did not answer."""
    asked = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) or is_offline() else "the Hub can't be reached"
    return f"{repo}/{file} is not in the cache, and {asked}: connect, unset HF_HUB_OFFLINE, or set HF_ENDPOINT or HF_HOME to where it is"


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def files_in(repo: str, revision: str) -> list[str]:
    """For a suggestion; empty where the Hub does not say."""
    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except (OSError, ValueError):
        return []
