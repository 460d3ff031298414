"""A program of its own, run by `llama_cpp_speed.py`: llama.cpp continues prompts, and is timed from outside.

    python -P llama_cpp_speed_child.py MODEL.gguf N_SEQUENCES N_POSITIONS N_THREADS

Each line of standard input is `{"prompts": [[id, …], …], "n_new": n}`; the answer is a line, when it is done. It ends
when its input does. It imports nothing of smalllm. The cache is in FP16, llama.cpp's own choice.
"""

import json
import os
import sys
from typing import Any


def main(path: str, n_sequences: int, n_positions: int, n_threads: int) -> None:
    """Answer until the input ends."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what the library prints must not get between the answers
        import llama_cpp

        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        # Rearranged weights make builds by GCC 12.2 crash where the CPU has AMX.
        model_params.use_extra_bufts = False
        model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_sequences * n_positions
        params.n_seq_max = n_sequences
        params.n_batch = params.n_ubatch = min(512, n_sequences * n_positions)
        params.n_threads = params.n_threads_batch = n_threads
        context = llama_cpp.llama_init_from_model(model, params)
        if not model or not context:
            raise SystemExit("llama.cpp cannot load the file")
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            _continue(llama_cpp, context, asked["prompts"], asked["n_new"], n_vocab, params.n_batch)
            print("done", file=out, flush=True)


def _continue(llama_cpp: Any, context: Any, prompts: list[list[int]], n_new: int, n_vocab: int, n_batch: int) -> None:
    import numpy as np

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(n_batch, 0, 1)
    drawn = []
    for sequence, prompt in enumerate(prompts):
        logits = _decode(llama_cpp, context, batch, [(sequence, i, t) for i, t in enumerate(prompt)], 1)
        drawn.append(int(np.ctypeslib.as_array(logits, (n_vocab,)).argmax()))
    for step in range(n_new - 1):
        rows = [(s, len(prompt) + step, t) for s, (prompt, t) in enumerate(zip(prompts, drawn, strict=True))]
        logits = _decode(llama_cpp, context, batch, rows, len(rows))
        drawn = np.ctypeslib.as_array(logits, (len(rows), n_vocab)).argmax(1).tolist()
    llama_cpp.llama_batch_free(batch)


def _decode(llama_cpp: Any, context: Any, batch: Any, rows: list[tuple[int, int, int]], n_logits: int) -> Any:
    """The logits after the last `n_logits` of rows of (sequence, position, token id)."""
    batch.n_tokens = len(rows)
    for i, (sequence, position, token_id) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token_id, position, 1
        batch.seq_id[i][0], batch.logits[i] = sequence, i >= len(rows) - n_logits
    if llama_cpp.llama_decode(context, batch):
        raise SystemExit("llama.cpp cannot compute")
    return llama_cpp.llama_get_logits(context)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
