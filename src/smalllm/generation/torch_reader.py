"""The model in the hands of PyTorch: GPUs, and CPUs for which `decode.cpp` cannot be compiled."""

import copy
import threading
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalllm import runtime
from smalllm.model.gpt import GPT
from smalllm.model.kv_cache import KVCache, SlotCache

_PROMPT_TOKENS = 8192  # padded, that a GPU reads at once
_LEAST_KEYS = 128
_ONE_CAPTURE = threading.Lock()  # decoders of several models have a thread each, and the process one capture

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class TorchReader:
    """Reads tokens into slots; has the same functions as `NativeReader`.

    On a GPU the decode step of all slots is a CUDA graph, one for each power of two of positions that it looks at.

    Args:
        model: on `device`.
        n_slots: sequences that are held at once.
        weights: fp32, tf32, or bf16 or fp16 for a copy of the matrices.
        device: cpu, cuda or mps.
        capture: makes of a step that always works on the same memory one that is quick to repeat, and may take the step
            any number of times meanwhile; absent: CUDA graphs on CUDA, else steps of the slots that are in use.
    """

    def __init__(
        self, model: GPT, *, n_slots: int, weights: str, device: str = "cpu", capture: Capture | None = None
    ) -> None:
        dtype = runtime.product_dtype(weights)
        self._model = model if dtype == torch.float32 else _with_matrices(model, dtype)
        self._device, self._precision, self.vocab_size = device, weights, model.vocab_size
        self._dtype = dtype
        held = KVCache(
            model.config,
            n_sequences=n_slots,
            n_positions=model.config.context_length,
            dtype=self._dtype,
            device=device,
        )
        self._keys, self._values, self.n_slots = held.keys, held.values, n_slots
        self._capture = _captured if device == "cuda" and capture is None else capture
        self._graphs: dict[int, Callable[[], Tensor]] = {}
        self._ids = torch.zeros(n_slots, 1, dtype=torch.int64, device=device)
        self._positions = torch.zeros(n_slots, dtype=torch.int64, device=device)

    def read(self, slots: Sequence[int], rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Float[Tensor, "B V"]:
        """Add tokens to slots; see `NativeReader.read`. Several tokens only to a slot that holds none."""
        runtime.use_products(self._precision, self._device)  # each time: another decoder may have another precision
        logits = torch.empty(len(slots), self.vocab_size, device=self._device)
        prompts = [i for i, start in enumerate(starts) if start == 0]
        singles = [i for i, start in enumerate(starts) if start > 0]
        assert all(len(rows[i]) == 1 for i in singles), "only an empty slot takes several tokens"
        # First these: a captured step works on all slots, and what it does to the others is overwritten by a prompt.
        if singles:
            at = torch.tensor([slots[i] for i in singles], device=self._device)
            ids = torch.tensor([rows[i] for i in singles], device=self._device)
            positions = torch.tensor([starts[i] for i in singles], device=self._device)
            n_keys = max(starts[i] for i in singles) + 1
            logits[singles] = self._step(at, ids, positions, n_keys).float()
        for group in _groups(prompts, rows, one_by_one=self._device == "cpu"):
            logits[group] = self._read_prompts([slots[i] for i in group], [rows[i] for i in group])
        return logits

    def copy(self, source: int, target: int) -> None:
        """Give a slot what another one holds."""
        self._keys[:, target] = self._keys[:, source]
        self._values[:, target] = self._values[:, source]

    def _read_prompts(self, slots: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
        """Prompts padded at their ends, which no token of theirs sees."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self._device)
        cache = KVCache(
            self._model.config,
            n_sequences=len(rows),
            n_positions=ids.shape[1],
            dtype=self._dtype,
            device=self._device,
        )
        with runtime.autocast(self._device, self._precision):
            hidden = self._model.hidden(ids, cache=cache)  # [B T D]
            last = hidden[torch.arange(len(rows)), lengths - 1]
            logits = self._model.lm_head(last)[:, : self.vocab_size]
        at = torch.tensor(slots, device=self._device)
        self._keys[:, at, :, : ids.shape[1]] = cache.keys
        self._values[:, at, :, : ids.shape[1]] = cache.values
        return logits.float()

    def _step(self, slots: Tensor, ids: Tensor, positions: Tensor, n_keys: int) -> Tensor:
        if self._capture is None:
            everyone = len(slots) == self.n_slots
            if everyone:
                order = slots.argsort()
                found = self._decode(ids[order], positions[order], None, n_keys)
                return torch.empty_like(found).index_copy_(0, order, found)
            return self._decode(ids, positions, slots, n_keys)
        room = max(_LEAST_KEYS, 1 << (n_keys - 1).bit_length())
        room = min(room, self._model.config.context_length)
        self._ids[slots], self._positions[slots] = ids, positions  # before a capture, whose steps store keys and values
        if room not in self._graphs:
            self._graphs[room] = self._capture(lambda: self._decode(self._ids, self._positions, None, room))
        return self._graphs[room]()[slots]

    def _decode(self, ids: Tensor, positions: Tensor, slots: Tensor | None, n_keys: int) -> Tensor:
        cache = SlotCache(self._keys, self._values, positions, slots=slots, n_keys=n_keys)
        is_half = self._dtype != torch.float32
        dtype = self._dtype if is_half else torch.bfloat16
        with torch.autocast(self._device, dtype=dtype, enabled=is_half, cache_enabled=False):
            return self._model(ids, cache=cache)[:, 0].float()


def _captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A function as a CUDA graph: launched at once, on the memory that it was captured with."""
    with _ONE_CAPTURE:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on meanwhile
            found = step()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


def _groups(prompts: Sequence[int], rows: Sequence[Sequence[int]], *, one_by_one: bool) -> list[list[int]]:
    """Prompts that are read together: of similar lengths, and not too many tokens; on a CPU each alone."""
    groups: list[list[int]] = []
    for i in sorted(prompts, key=lambda i: len(rows[i])):
        if groups and not one_by_one and (len(groups[-1]) + 1) * len(rows[i]) <= _PROMPT_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _with_matrices(model: GPT, dtype: torch.dtype) -> GPT:
    """A copy in which the matrices are of this type already, so that they are not converted at every step."""
    half = copy.deepcopy(model)
    for module in half.modules():
        if isinstance(module, nn.Linear):  # a tied head gets a matrix of its own; the embedding stays FP32
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    return half
