"""The tokenizer of a Hugging Face checkpoint folder, as one of smalllm's kinds.

Not here: tokenizers that need code of their own, and WordPiece and the like, which have no bytes to fall back to.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smalllm.errors import InteropError, TokenizerError
from smalllm.interop.hf_folder import read_json_file
from smalllm.interop.tokenizer_files import CONFIG, TOKENIZER
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import VOCABULARY_PAIRS, load_gpt2
from smalllm.tokenizers.huggingface import load_huggingface
from smalllm.tokenizers.sentencepiece import SAVED_NAME as SENTENCEPIECE
from smalllm.tokenizers.sentencepiece import load_sentencepiece
from smalllm.tokenizers.text_tokenizer import PROBES, TextTokenizer


def read_hf_tokenizer(directory: Path, *, notice: Callable[[str], None]) -> TextTokenizer:
    """Read the tokenizer of a checkpoint folder; its ids are those of the checkpoint's own files.

    Where `tokenizer.json` is there, it decides: another file is preferred to it only if it gives the same ids, and
    then as smalllm's kinds gpt2, sentencepiece or bytes. A tokenizer that changes text, such as one that puts a space
    in front, is taken as it is, since the model was trained so; `decode` then gives the changed text.

    Args:
        directory: a checkpoint folder.
        notice: told what the tokenizer changes in text.

    Raises:
        InteropError: there are no tokenizer files, or none of a kind that smalllm reads.
        TokenizerError: a file is damaged, cannot hold every text, or has no token that ends a document.
    """
    tokenizer = _read(directory)
    if tokenizer.loss:
        notice(
            f"its tokenizer changes some text: {tokenizer.loss}. The model was trained so; bits per byte and "
            "generated text are of the changed text"
        )
    return tokenizer


def _read(directory: Path) -> TextTokenizer:
    original = None
    if (directory / TOKENIZER).is_file():
        original = load_huggingface(directory / TOKENIZER, eos=_declared_eos(directory), allow_loss=True)
    for candidate in _candidates(directory):
        if original is None or _is_same(candidate, original):
            return candidate
    if original is not None:
        return original
    if (directory / SENTENCEPIECE).is_file():
        return load_sentencepiece(directory, allow_loss=True)
    raise InteropError(_no_tokenizer(directory))


def _candidates(directory: Path) -> Iterator[TextTokenizer]:
    """The lossless kinds that the folder's files may be, most specific first."""
    loaders: list[Callable[[], TextTokenizer]] = []
    if any((directory / a).is_file() and (directory / b).is_file() for a, b in VOCABULARY_PAIRS):
        loaders.append(lambda: load_gpt2(directory))
    if (directory / SENTENCEPIECE).is_file():
        loaders.append(lambda: load_sentencepiece(directory))
    if (directory / TOKENIZER).is_file():
        loaders.append(build_bytes)
    for load in loaders:
        try:
            yield load()
        except TokenizerError:
            continue  # a file of that name, of another vocabulary


def _is_same(candidate: TextTokenizer, original: TextTokenizer) -> bool:
    return (
        (candidate.eos_id, candidate.token_bytes) == (original.eos_id, original.token_bytes)
        and original.is_lossless
        and candidate.encode_batch(PROBES) == original.encode_batch(PROBES)
    )


def _declared_eos(directory: Path) -> list[str | int]:
    """What the checkpoint calls its end token, most reliable first: config.json often has its class's default."""
    files = {name: directory / name for name in (CONFIG, "generation_config.json", "config.json")}
    read = {name: read_json_file(path) if path.is_file() else {} for name, path in files.items()}
    name = read[CONFIG].get("eos_token")
    found: list[Any] = [name.get("content") if isinstance(name, dict) else name]
    for config in ("generation_config.json", "config.json"):
        ids = read[config].get("eos_token_id")
        found += ids[:1] if isinstance(ids, list) else [ids]
    return [eos for eos in found if isinstance(eos, str | int)]


def _no_tokenizer(directory: Path) -> str:
    expected = f"expected {TOKENIZER}, {SENTENCEPIECE}, or GPT-2's vocab.json and merges.txt"
    others = [name for name in ("vocab.json", "vocab.txt", "tekken.json", CONFIG) if (directory / name).is_file()]
    if not others:
        return f"{directory}: no tokenizer; {expected}. Get all files of the checkpoint"
    return (
        f"{directory}: no tokenizer that smalllm reads, only {', '.join(others)}; {expected}. transformers may make "
        f"one: AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained('converted')"
    )
