"""Encoding by several processes at once, with results in the order of the input.

Processes and not threads: the libraries build Python objects under the interpreter's lock, and Hugging Face's threads
wait for each other. Each process is a fresh Python without torch (see `worker.py`), and none outlives this one.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

from smalllm.errors import DataError, EncodingError
from smalllm.protocols import EncodeAll, Encoded, Tokenizer
from smalllm.tokenizers.worker import FAILED, HEAD, encode_batch, id_dtype, read_array, write_texts

Item = TypeVar("Item")
Result = TypeVar("Result")

_PIPE_BYTES = 1 << 20
# One thread each: the processes are as many as the cores.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1") | {
    "TOKENIZERS_PARALLELISM": "false"
}


def encode_here(tokenizer: Tokenizer) -> EncodeAll:
    """Encode in this process, by one thread."""

    def encode_all(batches: Iterable[Sequence[bytes]]) -> Iterator[Encoded]:
        return (encode_batch(tokenizer, texts) for texts in batches)

    return encode_all


@contextmanager
def encode_in_processes(tokenizer: Tokenizer, directory: Path, *, n_workers: int) -> Iterator[EncodeAll]:
    """Encode by `n_workers` processes, which end with this context, or with this process.

    They start with the second batch: the first is encoded here. A tokenizer that was quick with it goes on here, by as
    many threads. Each process has one batch in work and the next at hand; up to three per process are under way.

    Args:
        tokenizer: the one that `directory` holds.
        directory: saved by `save_tokenizer`; each process loads it.
        n_workers: at least 1.

    Raises:
        EncodingError: a text could not be encoded; raised where its batch would have come.
        DataError: a process could not be started, or was ended.
    """
    with ExitStack() as stack:

        def encode_all(batches: Iterable[Sequence[bytes]]) -> Iterator[Encoded]:
            rest = iter(batches)
            yield from encode_here(tokenizer)(islice(rest, 1))
            second = list(islice(rest, 1))
            if not second:
                return
            if tokenizer.is_quick:
                with ThreadPoolExecutor(n_workers) as threads:
                    encode_one = partial(encode_batch, tokenizer)
                    yield from map_in_order(threads, encode_one, chain(second, rest), ahead=3 * n_workers)
                return
            processes: list[_Process] = []
            for _ in range(n_workers):
                processes.append(_Process(directory, vocab_size=tokenizer.vocab_size))
                stack.callback(processes[-1].end)
            free: SimpleQueue[_Process] = SimpleQueue()
            for process in 2 * processes:  # once for the batch in work, once for the one at hand
                free.put(process)

            def encode(texts: Sequence[bytes]) -> Encoded:
                process = free.get()
                try:
                    return process.encode(texts)
                finally:
                    free.put(process)

            with ThreadPoolExecutor(2 * n_workers) as threads:
                yield from map_in_order(threads, encode, chain(second, rest), ahead=3 * n_workers)

        yield encode_all


def map_in_order(
    threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` by several threads, with at most `ahead` items under way.

    Where `items` raises, the results of what came before it are still given, and then the error.
    """
    waiting: deque[Future[Result]] = deque()
    failure: Exception | None = None
    rest = iter(items)
    try:
        while failure is None:
            try:
                waiting.append(threads.submit(function, next(rest)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
    if failure is not None:
        raise failure


class _Process:
    """One worker, and the two pipes to it."""

    def __init__(self, directory: Path, *, vocab_size: int) -> None:
        self._dtype = id_dtype(vocab_size)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                # -P: nothing in the current folder is taken for a module
                [sys.executable, "-P", "-m", "smalllm.tokenizers.worker", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C is for this process, which then ends them
            )
        except OSError as error:
            raise DataError(
                f"no process could be started to encode the text ({error.strerror}); use fewer --data.workers"
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._sending, self._reading = Lock(), Lock()
        with suppress(AttributeError, OSError):  # Linux, within limits: a whole batch fits, and waits at the other end
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """The ids of one batch. While one caller waits for its ids, another may send its batch."""
        try:
            with ExitStack() as stack:
                with self._sending:
                    write_texts(self._input, texts)
                    # Taken before the other is let go: who sent first reads first.
                    stack.enter_context(self._reading)
                return self._read()
        except (OSError, EOFError):
            code = self._process.wait()
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            raise DataError(
                f"a process that encodes text ended with {how}, as happens where memory is short. What was written is "
                "kept: run the same command again, with fewer --data.workers if memory is short"
            ) from None

    def _read(self) -> Encoded:
        n_texts, length = HEAD.unpack(read_array(self._output, HEAD.size, "u1").tobytes())
        if n_texts == FAILED:
            index = int(read_array(self._output, 1, "<u8")[0])
            raise EncodingError(self._output.read(length).decode(), index=index)
        counts = read_array(self._output, n_texts, "<u8").astype("i8")
        return Encoded(read_array(self._output, length, self._dtype), counts)

    def end(self) -> None:
        """End it at once: it holds nothing that could be lost."""
        self._process.kill()
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()
        self._process.wait()
