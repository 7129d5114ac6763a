"""Where a recipe's published weights are: files of the Hub, by repository, name, revision and hash."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from argenzoo.registry import Config


class HubFile(Config):
    """One file of a repository. Without ``sha256``, which is then not known, what arrives is taken as it is."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    file: str = Field(min_length=1)
    revision: str = "main"
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @property
    def address(self) -> str:
        """For messages and metadata."""
        return f"{self.repo}/{self.file}@{self.revision}"


class Pretrained(Config):
    """The published weights of a recipe, in the layout of ``family``: a generator with its tokenizer, or a tokenizer alone."""

    family: Literal["llamagen", "var", "mar"]
    generator: HubFile | None = None
    tokenizer: HubFile
    latent_scale: float | None = Field(None, description="of the published tokenizer, where the recipe leaves its own to be measured")
    license: str | None = None
    caution: str | None = Field(None, description="what a user should know of these files; a warning when they load")
