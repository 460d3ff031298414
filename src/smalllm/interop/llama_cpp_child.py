"""A program of its own, run by `llama_cpp_run.py`: what llama.cpp makes of a GGUF file.

    python -P llama_cpp_child.py REQUEST.json ANSWER.npz

Its own process, because llama.cpp ends the process it is in when it does not like a file, and crashes on some
machines. It imports nothing of smalllm. The sums are in FP32, with a cache in FP32, as far as llama.cpp lets them be.
"""

import ctypes
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_LOADED = 3
"""Exit status where the llama_cpp package cannot be imported."""


def main(request: Path, answer: Path) -> None:
    """Answer a request.

    The request has "path", "texts" to encode, "token_ids" for logits, "prompt" and "n_continued" for a greedy
    continuation, and "n_threads". The answer has "version"; "ids" of all texts in one, and "n_ids" of each;
    "pieces", the bytes of every token in one, and "n_bytes" of each; "logits"; "continued".
    """
    try:
        import llama_cpp
    except Exception as error:  # it raises what it likes where its library cannot be loaded
        print(error, file=sys.stderr)
        raise SystemExit(NOT_LOADED) from error

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    asked = json.loads(request.read_text(encoding="utf-8"))
    model = _load(llama_cpp, asked["path"])
    vocab = llama_cpp.llama_model_get_vocab(model)
    encoded = [_encode(llama_cpp, vocab, text.encode()) for text in asked["texts"]]
    pieces = [_piece(llama_cpp, vocab, i) for i in range(llama_cpp.llama_vocab_n_tokens(vocab))]
    n_threads, n_vocab = asked["n_threads"], len(pieces)
    context = _context(llama_cpp, model, n_positions=len(asked["token_ids"]), n_threads=n_threads)
    logits = _decode(llama_cpp, context, asked["token_ids"], start=0, n_vocab=n_vocab)
    llama_cpp.llama_free(context)
    n_positions = len(asked["prompt"]) + asked["n_continued"]
    context = _context(llama_cpp, model, n_positions=n_positions, n_threads=n_threads)
    continued = _continue(llama_cpp, context, asked["prompt"], n_continued=asked["n_continued"], n_vocab=n_vocab)
    np.savez(
        answer,
        version=np.array(llama_cpp.__version__),
        ids=np.array([i for ids in encoded for i in ids], np.int64),
        n_ids=np.array([len(ids) for ids in encoded], np.int64),
        pieces=np.frombuffer(b"".join(pieces), np.uint8),
        n_bytes=np.array([len(piece) for piece in pieces], np.int64),
        logits=logits,
        continued=np.array(continued, np.int64),
    )


def _load(llama_cpp: Any, path: str) -> Any:
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    # Rearranged weights are for speed. Built by GCC 12.2, llama.cpp crashes on them where the CPU has AMX.
    params.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit("llama.cpp cannot load the file")
    return model


def _encode(llama_cpp: Any, vocab: Any, text: bytes) -> list[int]:
    room = len(text) + 8
    ids = (llama_cpp.llama_token * room)()
    n_ids = llama_cpp.llama_tokenize(vocab, text, len(text), ids, room, False, False)
    return ids[:n_ids]


def _piece(llama_cpp: Any, vocab: Any, token_id: int) -> bytes:
    room = 64
    while True:
        piece = ctypes.create_string_buffer(room)
        n_bytes = llama_cpp.llama_token_to_piece(vocab, token_id, piece, room, 0, False)
        if n_bytes >= 0:
            return piece.raw[:n_bytes]
        room = -n_bytes


def _context(llama_cpp: Any, model: Any, *, n_positions: int, n_threads: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_positions
    params.n_threads = params.n_threads_batch = n_threads
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = getattr(llama_cpp, "LLAMA_FLASH_ATTN_TYPE_DISABLED", 0)
    return llama_cpp.llama_init_from_model(model, params)


def _decode(llama_cpp: Any, context: Any, ids: Sequence[int], *, start: int, n_vocab: int) -> NDArray[np.float32]:
    """The logits after each id [T V], which stand behind `start` earlier ones."""
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token_id in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token_id, start + i, 1, True
        batch.seq_id[i][0] = 0
    if llama_cpp.llama_decode(context, batch):
        raise SystemExit("llama.cpp cannot compute")
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(ids), n_vocab)).copy()
    llama_cpp.llama_batch_free(batch)
    return logits


def _continue(llama_cpp: Any, context: Any, prompt: Sequence[int], *, n_continued: int, n_vocab: int) -> list[int]:
    ids, new = list(prompt), list(prompt)
    while len(ids) < len(prompt) + n_continued:
        logits = _decode(llama_cpp, context, new, start=len(ids) - len(new), n_vocab=n_vocab)
        new = [int(logits[-1].argmax())]
        ids += new
    return ids[len(prompt) :]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
