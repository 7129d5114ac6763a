"""A model of the zoo as a diffusers pipeline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from argenzoo.errors import ArgenzooError
from argenzoo.grids import to_uint8
from argenzoo.hub.download import Access
from argenzoo.hub.hosting import Upload, load, push, save
from argenzoo.model import ARModel
from argenzoo.protocols import Progress

INDEX = "model_index.json"
OUTPUTS = ("pil", "np", "pt")


class ARPipeline(DiffusionPipeline):
    """``ARPipeline(model)(class_labels=[207]).images``; saves and loads the zoo's own format, so that ``build_model`` reads it too."""

    def __init__(self, model: ARModel) -> None:
        super().__init__()
        self.register_modules(model=model)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        output_type: str = "pil",
        return_dict: bool = True,
        condition: Any = None,
        sampling: dict[str, Any] | None = None,
    ) -> Any:
        """Pictures as PIL images, (B, H, W, 3) arrays in [0, 1] (``np``) or (B, 3, H, W) tensors in [0, 1] (``pt``).

        Args:
            class_labels: one label a picture.
            num_inference_steps: of the generator where it can choose (MAR), else of the diffusion head; None is the recipe's.
            guidance_scale: s at the end of the ramp, 1 is off; None is the recipe's.
            seed: picture i depends on (seed, i) alone.
            condition: instead of labels, text as (features, mask).
            sampling: dotted overrides, as ``ARModel.generate`` takes them.

        Raises:
            ArgenzooError: a label out of range, an unknown or impossible option.
        """
        self.model.require("tokenizer", "network")
        if output_type not in OUTPUTS:
            raise ArgenzooError(f"output_type '{output_type}' is none of {', '.join(OUTPUTS)}")
        if (class_labels is None) == (condition is None):
            raise ArgenzooError("give either class_labels or condition")
        labels = [class_labels] if isinstance(class_labels, int) else class_labels
        options = steps_for(self.model, num_inference_steps)
        if twice := options.keys() & (sampling or {}).keys():
            raise ArgenzooError(f"num_inference_steps is {min(twice)} here: give one of the two")
        what = labels if condition is None else condition
        with self.progress_bar(total=1) as bar:
            pictures = self.model.generate(what, guidance_scale, seed, sampling={**options, **(sampling or {})}, watch=shown_on(bar))
        images = as_images(pictures, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | Path, license: str | None = None, overwrite: bool = False) -> None:  # noqa: A002
        """The model's folder, and the index that diffusers knows a pipeline by."""
        self._write(save(self.model, save_directory, license, overwrite))

    def _write(self, folder: Path) -> None:
        index = {"_class_name": type(self).__name__, "_diffusers_version": diffusers.__version__}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        commit_message: str = "Upload a pipeline of argenzoo",
        create_pr: bool | None = None,
        license: str | None = None,  # noqa: A002
    ) -> str:
        """As ``ARModel.push_to_hub``, with the pipeline's index."""
        upload = Upload(private, token, branch, commit_message, create_pr)
        return push(lambda folder: self._write(save(self.model, folder, license, repo=repo_id)), repo_id, upload)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> ARPipeline:
        """From a folder or a repository in the zoo's format, whether a pipeline or ``ARModel.save_pretrained`` wrote it."""
        return cls(load(pretrained_model_name_or_path, None, device, Access(revision, token, cache_dir, force_download, local_files_only)))


def steps_for(model: ARModel, steps: int | None) -> dict[str, Any]:
    """The one option that ``num_inference_steps`` means for this model; a warning where it has none."""
    for section in ("order", "head"):
        if steps is not None and hasattr(getattr(model.sampling, section), "num_steps"):
            return {f"{section}.num_steps": steps}
    if steps is not None:
        kind = model.recipe.generator.name
        warnings.warn(f"num_inference_steps has no effect: the steps of generator '{kind}' are those of its tokens", stacklevel=4)
    return {}


def shown_on(bar: Any) -> Callable[[Progress], None]:
    """A watcher that moves a progress bar, a step of the generator at a time."""

    def watch(progress: Progress) -> None:
        bar.total = progress.steps
        bar.update(1)

    return watch


def as_images(pictures: torch.Tensor, output_type: str) -> Any:
    if output_type == "pt":
        return pictures
    if output_type == "np":
        return pictures.permute(0, 2, 3, 1).float().cpu().numpy()
    return [Image.fromarray(array) for array in to_uint8(pictures)]
