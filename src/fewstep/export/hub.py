"""An export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.base.errors import StorageError, UserError


def check() -> None:
    """Raises UserError where the hub's library is not here."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UserError("the hub needs huggingface_hub: pip install 'fewstep[hub]'") from None


def push(folder: Path, repo_id: str, *, private: bool = False, api: Any = None) -> str:
    """Uploads a folder as a model, which is made where there is none; returns its address.

    The token is the library's own: `hf auth login`, or HF_TOKEN. api: a `huggingface_hub.HfApi`.
    Raises UserError for a name that cannot be, StorageError where the hub refuses.
    """
    check()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi() if api is None else api
    try:
        address = api.create_repo(
            repo_id=repo_id, repo_type="model", private=private, exist_ok=True
        )
        api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            repo_type="model",
            commit_message="Export of a fewstep generator",
        )
    except HFValidationError as error:
        raise UserError(f"push = {repo_id!r}: expected OWNER/NAME: {error}") from error
    except Exception as error:  # of the library, the network or the hub
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StorageError(
            f"cannot push to {repo_id}: {reason}; the export itself is in {folder}"
        ) from error
    return str(address)
