"""Data sets in the Hub's layout, made here or from real pieces; and a Hub on this machine."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import re
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest

from run_helpers import make_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EOT = "<|endoftext|>"
WIKIPEDIA_CARD = """---
configs:
- config_name: 20231101.de
  data_files:
  - split: train
    path: 20231101.de/train-*
- config_name: 20231101.en
  data_files:
  - split: train
    path: 20231101.en/train-*
---
# Wikipedia
"""
FINEWEB_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
- config_name: sample-100BT
  data_files:
  - split: train
    path: sample/100BT/*
---
"""
STORIES_CARD = "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n---\n"


def real_data() -> Path:
    """The folder with real texts; skips where there is none."""
    folder = Path(os.environ.get("SMALLLM_TEST_DATA", "nowhere"))
    if not folder.is_dir():
        pytest.skip("SMALLLM_TEST_DATA names no folder with real data")
    return folder


def made_texts(n: int, *, seed: int = 0, mean_bytes: int = 300) -> list[str]:
    """`n` different texts."""
    draw = random.Random(seed)
    return [f"{seed}.{i} " + make_text(draw.randrange(20, 2 * mean_bytes), seed=1000 * seed + i) for i in range(n)]


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)


def write_wikipedia(folder: Path, texts: Sequence[str], *, n_files: int = 5) -> Path:
    """wikimedia/wikipedia: a folder per configuration, id, url, title, text."""
    write_text(folder / "README.md", WIKIPEDIA_CARD)
    for config, some in (("20231101.en", texts), ("20231101.de", ["Ein anderer Text.\n"] * n_files)):
        for i, part in enumerate(_parts(some, n_files)):
            ids = [str(10 * i + j) for j in range(len(part))]
            path = folder / config / f"train-{i:05d}-of-{n_files:05d}.parquet"
            write_parquet(path, {"id": ids, "url": ids, "title": ids, "text": part})
    return folder


def write_fineweb_edu(folder: Path, texts: Sequence[str], *, n_files: int = 4) -> Path:
    """HuggingFaceFW/fineweb-edu: crawls below data/, samples below sample/."""
    write_text(folder / "README.md", FINEWEB_CARD)
    for i, part in enumerate(_parts(texts, n_files)):
        ids = [f"<urn:uuid:{i}-{j}>" for j in range(len(part))]
        columns = {"text": part, "id": ids, "url": ids, "score": [3.5] * len(part)}
        write_parquet(folder / "sample" / "10BT" / f"{i:03d}_00000.parquet", columns)
    write_parquet(folder / "data" / "CC-MAIN-2013-20" / "train-00000-of-00014.parquet", {"text": ["not this\n"]})
    return folder


def write_tinystories(folder: Path, train: Sequence[str], val: Sequence[str], *, n_files: int = 4) -> Path:
    """roneneldan/TinyStories: Parquet below data/, older text files and an archive of JSON beside it."""
    write_text(folder / "README.md", STORIES_CARD)
    write_text(folder / "Evaluation prompts.yaml", "- prompt\n")
    for i, part in enumerate(_parts(train, n_files)):
        write_parquet(folder / "data" / f"train-{i:05d}-of-{n_files:05d}-2d5a1467fff1081b.parquet", {"text": part})
    write_parquet(folder / "data" / "validation-00000-of-00001-869c898b519ad725.parquet", {"text": list(val)})
    for name, texts in (("train", train), ("valid", val)):
        write_text(folder / f"TinyStories-{name}.txt", f"\n{EOT}\n".join(texts))
        write_text(folder / f"TinyStoriesV2-GPT4-{name}.txt", f"\n{EOT}\n".join(f"V2 {text}" for text in texts))
    with tarfile.open(folder / "TinyStories_all_data.tar.gz", "w:gz") as archive:
        for i, part in enumerate(_parts([*train, *val], 2)):
            content = json.dumps([{"story": text, "instruction": {"words": ["a"]}} for text in part]).encode()
            member = tarfile.TarInfo(f"data{i:02d}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _parts(texts: Sequence[str], n: int) -> list[list[str]]:
    size = -(-len(texts) // n)
    return [list(texts[i * size : (i + 1) * size]) for i in range(n)]


class Hub:
    """What the server gives away, how it fails, and what it was asked for."""

    def __init__(self) -> None:
        self.sets: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.failures: dict[str, list[int]] = {}
        """End of a path -> answers to give first: a status, or 0 to break off in the middle."""
        self.requests: list[str] = []


@contextlib.contextmanager
def serve_hub(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that answers like the Hub, and huggingface_hub set to use it, with a cache of its own."""
    from huggingface_hub import constants

    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    address = f"http://127.0.0.1:{server.server_address[1]}"
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            name = next((n for n in hub.sets if f"/{n}" in path), None)
            fails = next((f for end, f in hub.failures.items() if path.endswith(end) and f), None)
            if fails is not None and (status := fails[0]):
                fails.pop(0)
                self.send(status, b"{}", **({"X-Error-Code": "EntryNotFound"} if status == 404 else {}))
            elif name is None or (name in hub.gated and "/resolve/" in path):
                code = "RepoNotFound" if name is None else "GatedRepo"
                self.send(404 if name is None else 403, b"{}", **{"X-Error-Code": code})
            elif path.startswith("/api/"):
                self.send(200, json.dumps(listing(hub.sets[name], name)).encode())
            else:
                breaks_off = fails is not None and self.command == "GET"
                if breaks_off and fails is not None:
                    fails.pop(0)
                self.send_file(hub.sets[name] / re.split(r"/resolve/\w+/", path)[1], breaks_off=breaks_off)

        def send_file(self, file: Path, *, breaks_off: bool) -> None:
            content = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            status, start = 200, 0
            if given := self.headers.get("Range"):
                start = int(given.removeprefix("bytes=").split("-")[0])
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(status, content[start:], breaks_off=breaks_off, **headers)

        def send(self, status: int, content: bytes, *, breaks_off: bool = False, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if breaks_off else content)
            if breaks_off:
                self.close_connection = True

    return Handler


def listing(folder: Path, name: str) -> dict[str, Any]:
    """What the Hub's API says of a data set."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    siblings = [{"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files]
    return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "disabled": False}
