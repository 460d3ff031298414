"""The processes that train together: who they are, what they agree on, and how one's error ends all.

`torchrun` starts them and says in environment variables who is who. Everything that decides what a run does next (a
loss, a signal, a clock) is gathered from all ranks or taken from rank 0, so that all do the same. These few numbers go
between CPUs through gloo, whatever the device; tensors of a GPU go through NCCL (`parallel.py`).

n ranks are n / t groups of t tensor ranks, which share the matrices and see the same windows: rank r is tensor rank
r mod t of data rank r // t.
"""

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from smalllm.config import RunConfig
from smalllm.errors import ConfigError, RankError, SmalllmError
from smalllm.rundir import is_launched

_RANK_0_SPEAKS_S = 1.0  # what all ranks find, rank 0 says: others that fail let it go first
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up: longer than anything that only one of them does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    """This process, 0 to n - 1. Rank 0 writes the run and speaks."""
    n: int = 1
    """How many there are."""
    local_rank: int = 0
    """This process among those of its machine."""
    n_local: int = 1
    """How many there are on this machine."""
    n_tensor: int = 1
    """How many share each matrix."""
    mesh: Any = None
    """The `DeviceMesh` [data, tensor]; None before `arranged`, and for one process."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def n_data(self) -> int:
        """Into how many parts a step's windows are divided."""
        return self.n // self.n_tensor

    @property
    def data_rank(self) -> int:
        """Which part of them is this process's."""
        return self.rank // self.n_tensor

    @property
    def tensor_rank(self) -> int:
        """Which part of the matrices is this process's."""
        return self.rank % self.n_tensor

    def gather(self, values: Sequence[float | int]) -> list[list[float]]:
        """The values of every rank, in the order of ranks; the same lists everywhere, to the last bit."""
        if self.n == 1:
            return [list(map(float, values))]
        mine = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.n)]
        dist.all_gather(found, mine)
        return [row.tolist() for row in found]

    def data_sums(self, values: Sequence[float | int]) -> list[float]:
        """Sums over the data ranks: what tensor ranks have in common counts once."""
        if self.n == 1:
            return list(map(float, values))
        rows = self.gather(values)[:: self.n_tensor]
        return [sum(column) for column in zip(*rows, strict=True)]

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank; anything that JSON holds."""
        if self.n == 1:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        (length,) = self.gather([len(text)])[0]
        sent = torch.frombuffer(bytearray(text or bytes(int(length))), dtype=torch.uint8)
        dist.broadcast(sent, src=0)
        return json.loads(bytes(sent.tolist()))

    def config_from_first(self, config: RunConfig) -> RunConfig:
        """Rank 0's configuration on every rank."""
        if self.n == 1:
            return config
        rebuilt: RunConfig = _rebuilt(config, self.from_first(dataclasses.asdict(config)))
        return rebuilt


ALONE = Ranks()
"""One process, without torchrun."""


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started; without torchrun, nothing happens.

    If one of them fails, its message is said once: others that only lost it end with a `RankError` without text.

    Raises:
        RankError: this rank failed and is not rank 0, or the others were lost.
        ConfigError: more processes on this machine than it has GPUs.
    """
    if not is_launched():
        yield Ranks()
        return
    common, rank, n = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    store = dist.PrefixStore(_meet(common, rank, n), common)  # type: ignore[attr-defined]
    ranks = Ranks(
        rank=rank,
        n=n,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        n_local=int(os.environ.get("LOCAL_WORLD_SIZE", n)),
    )
    try:
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=TIMEOUT)
        yield ranks
        dist.destroy_process_group()
    except BaseException as error:
        ours = _said_once(error, store, rank)
        if dist.is_initialized() and not torch.cuda.is_available():  # NCCL would wait for those that are gone
            dist.destroy_process_group()
        if ours is error:
            raise
        raise ours from error


def arranged(ranks: Ranks, *, device: str, n_tensor: int) -> Ranks:
    """The ranks in their groups.

    Args:
        ranks: all of them.
        device: cpu or cuda.
        n_tensor: how many share each matrix.

    Raises:
        ConfigError: they cannot be grouped so, or the device cannot be used by several processes.
    """
    if ranks.n % n_tensor:
        raise ConfigError(
            f"train.tensor_parallel = {n_tensor}: must divide the number of processes, which is {ranks.n}; start a "
            f"multiple of {n_tensor} with torchrun --nproc-per-node, or leave train.tensor_parallel out"
        )
    if ranks.n == 1:
        return ranks
    if device not in ("cpu", "cuda"):
        raise ConfigError(f'train.device = "{device}": several processes train on "cpu" or "cuda" only')
    if device == "cuda" and ranks.n_local > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {ranks.n_local} processes here, and this machine has {torch.cuda.device_count()} GPUs; "
            f"start as many as there are (--nproc-per-node {torch.cuda.device_count()}), or use --train.device cpu"
        )
    shape = (ranks.n // n_tensor, n_tensor)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("data", "tensor"))
    return dataclasses.replace(ranks, n_tensor=n_tensor, mesh=mesh)


def _meet(store: Any, rank: int, n: int) -> str:
    """A name for this meeting that no earlier one had, the same for all who are there.

    torchrun keeps one store over restarts, and in it the addresses of processes that are dead. A rank says hello with
    a word of its own, which rank 0 answers with the name: so neither takes the other for one of an earlier attempt.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if rank:
        store.set(f"smalllm-hello-{rank}", word)
        name = store.get(f"smalllm-welcome-{rank}-{word}").decode()
        store.set(f"{name}-here-{rank}", "yes")
        return str(name)
    name = f"smalllm-{word}"
    while missing := [other for other in range(1, n) if not store.check([f"{name}-here-{other}"])]:
        for other in missing:
            if store.check([f"smalllm-hello-{other}"]):
                store.set(f"smalllm-welcome-{other}-{store.get(f'smalllm-hello-{other}').decode()}", name)
        if time.monotonic() > deadline:
            raise RankError(
                f"rank 0 waited {TIMEOUT} for ranks {missing}, and they did not come; look at their messages"
            )
        time.sleep(0.01)
    return name


def _said_once(error: BaseException, store: Any, rank: int) -> BaseException:
    """What this rank raises: its error if it is the first to fail, else one without words."""
    if rank:
        time.sleep(_RANK_0_SPEAKS_S)
    try:
        is_first_to_fail = store.add("said", 1) == 1
    except RuntimeError:  # the store went with the process that kept it
        is_first_to_fail = rank == 0
    if not is_first_to_fail:
        return RankError("")
    if _is_loss_of_others(error):
        return RankError(
            f"rank {rank} lost the other processes ({str(error).splitlines()[0][:200]}): one of them ended, or the "
            "network failed. Start again with --resume; torchrun --max-restarts 3 does that by itself"
        )
    if rank and isinstance(error, (SmalllmError, OSError)):
        return RankError(f"rank {rank}: {error}")
    return error


def _is_loss_of_others(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def _rebuilt(like: Any, values: Mapping[str, Any]) -> Any:
    """A configuration from what JSON made of it."""
    made = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(now := getattr(like, key)):
            made[key] = _rebuilt(now, value)
        else:
            made[key] = tuple(value) if isinstance(value, list) else value
    return type(like)(**made)
