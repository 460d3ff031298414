"""From runs to a port that answers, and to its end: signals, time to finish, exit."""

import ipaddress
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from smalllm.api.text import DecodePrecision
from smalllm.errors import ConfigError, RunError
from smalllm.serving.app import create_app, end
from smalllm.serving.guard import Log
from smalllm.serving.limits import LIMITS, Limits
from smalllm.serving.models import Served, load_models
from smalllm.serving.protocol import protocol_of

TOKEN_VARIABLE = "SMALLLM_TOKEN"
_BACKLOG = 512
_SWITCH_S = 0.0005
"""After so long Python's threads let each other in: the models' and the one that answers wait for each other all the
time. With the default, ten times as long, one client alone gets half as many tokens per second."""


def serve(
    *runs: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    precision: DecodePrecision = "auto",
    slots: int | None = None,
    limits: Limits = LIMITS,
    started: Callable[[str, Sequence[Served]], None] | None = None,
    log: Log | None = None,
) -> None:
    """Serve runs over HTTP, as OpenAI's completions, until SIGINT or SIGTERM.

    Args:
        runs: run directories, or single checkpoints.
        host: the address to listen at; one that other machines can reach needs a token.
        port: 0 for any free one.
        token: that every request must bring; absent: the environment variable SMALLLM_TOKEN, if it is set.
        precision: of the weights; auto: each run's.
        slots: sequences at once, of each model; absent: 32, or as many as fit into 2 GiB of keys and values.
        limits: how much one user may ask.
        started: told the address and the models once requests are answered.
        log: told a line for each request.

    Raises:
        ConfigError: no run, an address that other machines can reach without a token, or a precision that cannot be
            had.
        RunError: the port is taken, or a run cannot be loaded; CheckpointError, TokenizerError likewise.
    """
    if not runs:
        raise ConfigError("no run was given; name one, as in smalllm serve runs/stories")
    token = check_token(os.environ.get(TOKEN_VARIABLE) if token is None else token)
    with open_port(host, port, has_token=token is not None) as listener:
        models = load_models(runs, precision=precision, n_slots=slots, most_waiting=limits.waiting)
        Server(models, listener, token=token, limits=limits, log=log, started=started).run()


def check_token(token: str | None) -> str | None:
    """The token, if it can be one.

    Raises:
        ConfigError: it is empty, or holds what a header cannot.
    """
    if token is not None and not (token and all("!" <= character <= "~" for character in token)):
        raise ConfigError(
            "--token: must be letters, digits and signs without spaces; make one with: openssl rand -hex 16"
        )
    return token


def open_port(host: str, port: int, *, has_token: bool) -> socket.socket:
    """Listen at an address; requests wait until they are served.

    Raises:
        ConfigError: the address can be reached from elsewhere and there is no token, or it is none.
        RunError: the port is taken.
    """
    if not 0 <= port < 65_536:
        raise ConfigError(f"--port {port}: must be 0 (any free one) to 65535")
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE if host else 0
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: is no address of this machine ({error}); give one, as 127.0.0.1") from error
    if not has_token and not is_loopback(str(address[0])):
        raise ConfigError(
            f"--host {host}: other machines could use the server; give it a token, best through the environment: "
            f"{TOKEN_VARIABLE}=$(openssl rand -hex 16), or leave out --host"
        )
    listener = socket.socket(family, kind, number)  # with its number asyncio knows it as TCP, and sends without delay
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise RunError(
            f"{host}, port {port}: cannot be used ({error.strerror}); give another with --port, or --port 0 for any "
            "free one"
        ) from error
    return listener


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


class Server:
    """Models behind a port. `run` serves until a signal, or until `stop` is called from another thread.

    Args:
        models: what is served.
        listener: a socket that listens.
        token: that every request must bring; see `create_app`.
        limits: likewise.
        log: likewise.
        started: told the address and the models once requests are answered.
    """

    def __init__(
        self,
        models: Sequence[Served],
        listener: socket.socket,
        *,
        token: str | None = None,
        limits: Limits = LIMITS,
        log: Log | None = None,
        started: Callable[[str, Sequence[Served]], None] | None = None,
    ) -> None:
        self._models, self._listener, self._started = models, listener, started
        host, port = listener.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        is_private = token is None and is_loopback(host)
        hosts = {"127.0.0.1", "localhost", "::1", host} if is_private else set()
        self.app = create_app(models, token=token, hosts=hosts, limits=limits, log=log)
        config = uvicorn.Config(
            self.app,
            http=protocol_of(limits),
            ws="none",
            loop="asyncio",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.idle_s),
            timeout_graceful_shutdown=int(limits.grace_s) + 5,
            h11_max_incomplete_event_size=limits.header_bytes,
        )
        self._uvicorn = _Uvicorn(config, self._begin, lambda: end(models), grace_s=limits.grace_s)

    def run(self) -> None:
        """Serve; returns when all has ended."""
        before_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            self._uvicorn.run(sockets=[self._listener])
        finally:
            sys.setswitchinterval(before_s)
            end(self._models)

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._uvicorn.should_exit = True

    def _begin(self) -> None:
        if self._started is not None:
            self._started(self.address, self._models)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, which ends without repeating the signal, and ends what still runs after a while."""

    def __init__(
        self, config: uvicorn.Config, begin: Callable[[], None], end: Callable[[], None], *, grace_s: float
    ) -> None:
        super().__init__(config)
        self._begin, self._end, self._grace_s = begin, end, grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # streams then end with an error of their own, before uvicorn would cut them
        timer = threading.Timer(self._grace_s, self._end)
        timer.daemon = True
        timer.start()
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # a second signal waits for nobody
        self.should_exit = True
