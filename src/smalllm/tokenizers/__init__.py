"""Text to token ids and back, without loss: gpt2, sentencepiece, huggingface and bytes.

What rebuilds a tokenizer offline is a directory: the vocabulary's own file and `smalllm.json`, which records
the kind, the size, the end token and the sha256 that `load_tokenizer` checks; and that there is loss, where the
tokenizer came with a model that was trained so.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from smalllm.errors import TokenizerError
from smalllm.protocols import Tokenizer
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import load_gpt2
from smalllm.tokenizers.huggingface import load_huggingface, train_huggingface
from smalllm.tokenizers.sentencepiece import load_sentencepiece, train_sentencepiece

__all__ = ["KINDS", "build_tokenizer", "load_tokenizer", "save_tokenizer"]

KINDS = ("gpt2", "sentencepiece", "huggingface", "bytes")
FORMAT = "smalllm-tokenizer"
VERSION = 1
RECORD_NAME = "smalllm.json"
_TRAINERS = {"sentencepiece": train_sentencepiece, "huggingface": train_huggingface}


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write what rebuilds the tokenizer offline; the same tokenizer always gives the same bytes.

    Args:
        tokenizer: any kind.
        directory: created if absent; files of the same names are replaced.
    """
    tokenizer.save(directory)
    text = json.dumps(_record(tokenizer), indent=2) + "\n"
    (directory / RECORD_NAME).write_text(text, encoding="utf-8", newline="\n")


def load_tokenizer(directory: Path) -> Tokenizer:
    """Rebuild a tokenizer that `save_tokenizer` wrote, and check that it is the same one.

    Args:
        directory: the folder with `smalllm.json`.

    Raises:
        TokenizerError: the folder or its record is missing, written by a newer smalllm, or its files changed.
    """
    record = _read_record(directory)
    kind = record.get("kind")
    if kind not in KINDS:
        raise TokenizerError(f"{directory / RECORD_NAME}: kind is {kind!r}; expected {_either(KINDS)}")
    tokenizer = _load_saved(record, directory)
    found = _record(tokenizer)
    changed = [key for key in found if record.get(key) != found[key]]
    if changed:
        key = changed[-1]
        raise TokenizerError(
            f"the tokenizer in {directory} was altered: {key} is {found[key]!r}, {RECORD_NAME} says "
            f"{record.get(key)!r}. Ids would not match the data; restore the folder or prepare the data again"
        )
    return tokenizer


def build_tokenizer(
    kind: str,
    *,
    vocab_size: int | None,
    path: Path | None,
    texts: Callable[[], Iterable[str]],
) -> Tokenizer:
    """The tokenizer that `[tokenizer]` of a configuration asks for: loaded from `path`, trained or built in.

    Args:
        kind: gpt2, sentencepiece, huggingface or bytes.
        vocab_size: how many ids to train; where nothing is trained, how many are expected (None: any).
        path: a folder saved by `save_tokenizer`, or the files of that kind; None trains or is built in.
        texts: gives the training documents; called only if something is trained.

    Raises:
        TokenizerError: an unknown kind, a size that disagrees or is missing, or files that cannot be used.
    """
    if kind not in KINDS:
        raise TokenizerError(f"the tokenizer kind is {kind!r}; expected {_either(KINDS)}")
    if path is not None and (path / RECORD_NAME).is_file():
        tokenizer = load_tokenizer(path)
    elif path is None and kind in _TRAINERS:
        tokenizer = _train(kind, texts, vocab_size=vocab_size)
    else:
        tokenizer = _load_kind(kind, path)
    if tokenizer.kind != kind:
        raise TokenizerError(f"{path} holds a {tokenizer.kind} tokenizer; write --tokenizer.kind {tokenizer.kind}")
    if vocab_size not in (None, tokenizer.vocab_size):
        raise TokenizerError(
            f"the {kind} tokenizer has {tokenizer.vocab_size:,} ids, but vocab_size is {vocab_size:,}; "
            f"write --tokenizer.vocab_size {tokenizer.vocab_size}"
        )
    return tokenizer


def _train(kind: str, texts: Callable[[], Iterable[str]], *, vocab_size: int | None) -> Tokenizer:
    if vocab_size is None:
        raise TokenizerError(
            f"a {kind} tokenizer is trained on the text and needs its size; add --tokenizer.vocab_size 4096 "
            "(or another number), or --tokenizer.path"
        )
    return _TRAINERS[kind](texts(), vocab_size=vocab_size)


def _load_saved(record: dict[str, Any], directory: Path) -> Tokenizer:
    allow_loss = record.get("lossless") is False
    if record["kind"] == "huggingface":
        eos_id = record.get("eos_id")
        return load_huggingface(directory, eos=[eos_id] if isinstance(eos_id, int) else [], allow_loss=allow_loss)
    if record["kind"] == "sentencepiece":
        return load_sentencepiece(directory, allow_loss=allow_loss)
    return _load_kind(record["kind"], None if record["kind"] == "bytes" else directory)


def _load_kind(kind: str, path: Path | None) -> Tokenizer:
    if kind == "gpt2":
        return load_gpt2(path)
    if path is None:
        return build_bytes()
    if kind == "sentencepiece":
        return load_sentencepiece(path)
    if kind == "huggingface":
        return load_huggingface(path)
    raise TokenizerError(f"the bytes tokenizer has no files, but path is {path}; leave --tokenizer.path out")


def _record(tokenizer: Tokenizer) -> dict[str, Any]:
    record = {
        "format": FORMAT,
        "version": VERSION,
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "sha256": tokenizer.fingerprint,
    }
    return record if tokenizer.is_lossless else {**record, "lossless": False}


def _read_record(directory: Path) -> dict[str, Any]:
    file = directory / RECORD_NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(
            f"{directory} holds no smalllm tokenizer ({RECORD_NAME}: {error.strerror}); expected the "
            "tokenizer folder of prepared data or of a run. Run smalllm prepare to make one"
        ) from error
    except ValueError as error:
        raise TokenizerError(f"{file} is not JSON ({error}); restore the folder or prepare the data again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise TokenizerError(f'{file} does not say "format": "{FORMAT}"; restore it or prepare the data again')
    version = record.get("version")
    if version != VERSION:
        raise TokenizerError(
            f"{file} has format version {version!r}; this smalllm reads version {VERSION}. Update smalllm"
        )
    return record


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
