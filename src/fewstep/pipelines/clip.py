"""Embeddings of pictures and texts by a CLIP on the disk, in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewstep.base.errors import StorageError, UserError
from fewstep.foreign.diffusers_folder import CONFIG
from fewstep.pipelines.folder import reading
from fewstep.pipelines.libraries import need_libraries, quiet


@dataclass(frozen=True, eq=False)
class Clip:
    """CLIPModel and CLIPProcessor of transformers, from `open_clip`."""

    model: Any
    processor: Any

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """Bytes `[B, 3, H, W]` -> embeddings `[B, D]` of length 1, on the CPU."""
        images = [one.permute(1, 2, 0).numpy() for one in pictures]
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        return self._rows(self.model.get_image_features(**inputs.to(self.model.device)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[B, D]` of length 1, on the CPU; long texts are cut, as CLIP's own are."""
        most = self.model.config.text_config.max_position_embeddings
        inputs = self.processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return self._rows(self.model.get_text_features(**inputs.to(self.model.device)))

    def _rows(self, output: Any) -> Tensor:
        # Older versions of transformers give the tensor itself.
        rows: Tensor = getattr(output, "pooler_output", output)
        return normalize(rows.float(), dim=1).cpu()


def open_clip(path: str | Path, device: torch.device | str = "cpu") -> Clip:
    """The CLIP in a folder, as save_pretrained or a download of all its files writes it.

    Nothing is downloaded, and no pickle is read. Raises UserError and StorageError.
    """
    need_libraries()
    from transformers import CLIPModel, CLIPProcessor

    path = Path(path)
    if not (path / CONFIG).is_file():
        raise UserError(
            f"clip {path}: no {CONFIG} there: expected the folder of a CLIP of transformers, such"
            " as a download of clip-vit-large-patch14"
        )
    options: dict[str, Any] = {"local_files_only": True}
    with quiet(), reading(path, "CLIPProcessor"):
        processor = CLIPProcessor.from_pretrained(path, **options)
    with quiet(), reading(path, "CLIPModel"):
        model, info = CLIPModel.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise StorageError(f"{path}: {len(missing)} weights are missing, as {missing[0]}")
    return Clip(model.eval().requires_grad_(False).to(device), processor)
