"""The page to play with: some files of this package, and nothing else that lies on a disk."""

from importlib import resources

from starlette.responses import Response

_MODULES = ("branches", "client", "panel", "playground", "samples", "store", "tokens")
KINDS = {"index.html": "text/html", "style.css": "text/css", "icon.svg": "image/svg+xml"}
KINDS |= {f"{name}.js": "text/javascript" for name in _MODULES}
PATHS = {"/": "index.html", **{f"/{name}": name for name in KINDS if name != "index.html"}}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def read_page() -> dict[str, bytes]:
    """What each path shows."""
    folder = resources.files("smalllm.serving") / "web"
    return {path: (folder / name).read_bytes() for path, name in PATHS.items()}


def show(content: bytes, name: str) -> Response:
    """One of the files."""
    return Response(content, media_type=f"{KINDS[name]}; charset=utf-8", headers=_HEADERS)
