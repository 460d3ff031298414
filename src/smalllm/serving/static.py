"""The page to play with: three files of this package, and nothing else that lies on a disk."""

from importlib import resources

from starlette.responses import Response

KINDS = {"index.html": "text/html", "playground.js": "text/javascript", "style.css": "text/css"}
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
