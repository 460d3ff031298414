"""A process that encodes: texts come in on standard input, ids go out on standard output, until its parent ends.

Started by `workers.py` as `python -m smalllm.tokenizers.worker FOLDER`, a program of its own and not a fork: it holds
no lock, thread or memory of its parent, and imports no torch. `workers.py` and this file alone know the frames.

    parent → worker    u64 number of texts, u64 length of each [bytes], the texts in UTF-8
    worker → parent    u64 number of texts, u64 number of ids, u64 count of each text, the ids
                       or, for an error: u64 2^64 - 1, u64 length [bytes], u64 index of the text, the message
"""

import os
import select
import struct
import sys
import threading
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from smalllm.errors import EncodingError, TokenizerError
from smalllm.protocols import Encoded, Tokenizer
from smalllm.tokenizers import load_tokenizer

HEAD = struct.Struct("<QQ")
FAILED = 2**64 - 1


def main() -> None:
    """Answer until the parent closes its end, or ends."""
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    # What a library prints must not get between the frames: the real output is kept apart.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            tokenizer = load_tokenizer(Path(sys.argv[1]))
        except TokenizerError as error:  # the parent has loaded it: it was changed since
            sys.exit(str(error))
        dtype = id_dtype(tokenizer.vocab_size)
        while (texts := read_texts(sys.stdin.buffer)) is not None:
            try:
                _write_encoded(out, encode_batch(tokenizer, texts), dtype=dtype)
            except EncodingError as error:
                _write_error(out, error)


def write_texts(file: IO[bytes], texts: Sequence[bytes]) -> None:
    """Send a batch to a worker."""
    lengths = np.array([len(texts), *map(len, texts)], dtype="<u8")
    file.write(b"".join([lengths.tobytes(), *texts]))
    file.flush()


def read_texts(file: IO[bytes]) -> list[bytes] | None:
    """The next batch; None if the parent has closed its end."""
    head = file.read(8)
    if len(head) < 8:
        return None
    borders = [0, *accumulate(read_array(file, int.from_bytes(head, "little"), "<u8").tolist())]
    content = file.read(borders[-1])
    return [content[start:stop] for start, stop in pairwise(borders)]


def read_array(file: IO[bytes], length: int, dtype: str) -> NDArray[Any]:
    """An array of `length` numbers.

    Raises:
        EOFError: the other end was closed before they came.
    """
    size_bytes = length * np.dtype(dtype).itemsize
    content = file.read(size_bytes)
    if len(content) < size_bytes:
        raise EOFError
    return np.frombuffer(content, dtype)


def id_dtype(vocab_size: int) -> str:
    """The type that ids have on their way: the smaller of two."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


def _end_with_parent(descriptor: int) -> None:
    """End this process, whatever it does, when nobody holds the other end of its input any more."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is told without being asked for
    poll.poll()
    os._exit(1)


def encode_batch(tokenizer: Tokenizer, texts: Sequence[bytes]) -> Encoded:
    """The ids of texts in UTF-8.

    Raises:
        EncodingError: the library failed, and on which text.
    """
    try:
        return tokenizer.encode_arrays([text.decode() for text in texts])
    except BaseException as error:  # a panic in Rust is no Exception
        for index, text in enumerate(texts):
            try:
                tokenizer.encode_arrays([text.decode()])
            except BaseException as culprit:
                raise EncodingError(_said_of(culprit), index=index) from culprit
        raise EncodingError(f"{_said_of(error)}, though only for all of a batch at once", index=0) from error


def _said_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _write_encoded(out: IO[bytes], encoded: Encoded, *, dtype: str) -> None:
    out.write(HEAD.pack(len(encoded.counts), len(encoded.ids)))
    out.write(encoded.counts.astype("<u8").tobytes())
    out.write(encoded.ids.astype(dtype, copy=False).tobytes())
    out.flush()


def _write_error(out: IO[bytes], error: EncodingError) -> None:
    message = str(error).encode()
    out.write(HEAD.pack(FAILED, len(message)) + struct.pack("<Q", error.index) + message)
    out.flush()


if __name__ == "__main__":
    main()
