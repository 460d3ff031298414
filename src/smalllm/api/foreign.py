"""Shards of other programs, as `train` and `evaluate` take them: whose tokenizer, what is held out."""

from collections.abc import Callable
from pathlib import Path

from smalllm.api.hub import tokenizer_path
from smalllm.config import DataConfig, TokenizerConfig
from smalllm.data.foreign import describe, find_shards
from smalllm.data.manifest import Manifest, TokenizerFacts
from smalllm.data.shards import open_split
from smalllm.errors import TokenizerError
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.reporting.words import count, printable
from smalllm.tokenizers import build_tokenizer

_SHOWN_TOKENS = 24


def tokenizer_facts(tokenizer: Tokenizer) -> TokenizerFacts:
    """What a manifest says of a tokenizer."""
    return TokenizerFacts(
        kind=tokenizer.kind,
        sha256=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )


def load_foreign(
    directory: Path, data: DataConfig, *, tokenizer: Callable[[], Tokenizer] | None, progress: Progress
) -> tuple[Manifest, Tokenizer]:
    """Describe the shards of a folder, check ids of them, and show what the tokenizer makes of them.

    Args:
        directory: the folder; nothing is written into it.
        data: `val_files` and `val_fraction` say what is held out.
        tokenizer: gives the one that made the ids.
        progress: told the format, the sizes and a few decoded words.

    Raises:
        DataError: the files cannot be used; see `smalllm.data.foreign`.
        TokenizerError: nobody says which tokenizer made them, or it cannot be loaded.
    """
    shards = find_shards(directory, val_files=data.val_files)
    if tokenizer is None:
        raise TokenizerError(f"{directory}: {shards.format} files do not record their tokenizer; say which made them")
    made_by = tokenizer()
    manifest = describe(shards, tokenizer_facts(made_by), directory=directory, val_fraction=data.val_fraction)
    train, val = manifest.splits["train"], manifest.splits["val"]
    progress.say(
        f"{directory}: {shards.format} shards, {count(train.tokens)} tokens to train on, {count(val.tokens)} held out"
        + ("" if shards.val else f": the last {data.val_fraction:.2%}, as no file is called val")
    )
    if shards.aside:
        progress.say(f"  left aside by their names: {printable(', '.join(shards.aside))}")
    if (directory / "meta.pkl").exists():
        progress.say("  meta.pkl is not read: smalllm opens no pickle; [tokenizer] says what made the ids")
    progress.say(f"  the {made_by.kind} tokenizer reads: {_excerpt(directory, manifest, made_by)}")
    return manifest, made_by


def configured_tokenizer(asked: TokenizerConfig) -> Tokenizer:
    """The tokenizer that `[tokenizer]` names, which must be there: there is no text to train one on.

    Raises:
        DataError: it is one of the Hub and could not be had.
        TokenizerError: its files are not given, or cannot be used.
    """
    if asked.path is None and asked.kind in ("sentencepiece", "huggingface"):
        raise TokenizerError(
            f"tokenizer.kind = {asked.kind}: the shards do not record their tokenizer, and there is no text to train "
            "one on; give the one that made them with --tokenizer.path, or another --tokenizer.kind"
        )
    path = tokenizer_path(asked.kind, asked.path, Silent().say)
    return build_tokenizer(asked.kind, vocab_size=asked.vocab_size, path=path, texts=lambda: ())


def _excerpt(directory: Path, manifest: Manifest, tokenizer: Tokenizer) -> str:
    """A few words from the middle of the training tokens, for the eye: with a wrong tokenizer they make no sense."""
    stream = open_split(directory, manifest, "train")
    start = stream.n_tokens // 2
    ids = stream.read(start, min(start + _SHOWN_TOKENS, stream.n_tokens))
    return f'"{printable(tokenizer.decode(ids.tolist()))}"'
