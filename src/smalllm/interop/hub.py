"""Where a checkpoint folder is: on this machine, or on the Hugging Face Hub."""

import os
import re
from pathlib import Path

from smalllm.errors import InteropError
from smalllm.interop.hf_folder import conversion

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.bpe"]


def find_folder(source: str) -> Path:
    """The folder of a checkpoint, fetched from the Hub if it is not a local one.

    The Hub's own cache (`HF_HOME`) is used, so nothing is fetched twice, and nothing at all with `HF_HUB_OFFLINE=1`.

    Args:
        source: a folder, or a name on the Hub such as openai-community/gpt2.

    Raises:
        InteropError: neither, or the Hub could not give it, or has its weights as pickles only.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return path
    if path.exists():
        raise InteropError(
            f"{path}: a file; expected a Hugging Face checkpoint folder, with config.json, safetensors and a tokenizer"
        )
    if not _HUB_NAME.fullmatch(source):
        raise InteropError(
            f"{source}: no such folder, and not a name on the Hugging Face Hub, which looks like openai-community/gpt2"
        )
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(source, allow_patterns=_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # no network, no such repository, a gated one, a full disk: each has a type of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InteropError(
            f"{source}: no such folder here, and the Hugging Face Hub did not give it: {reason} "
            "Check the name and the network, or give the path of a downloaded folder"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise InteropError(
            f"{source}: the Hugging Face Hub has no safetensors of it. Other weights (pytorch_model.bin) are pickles, "
            f"which smalllm never reads: reading one runs the code in it. {conversion(source)}"
        )
    return folder
