"""The HTTP server: OpenAI's completions for runs, a few routes of our own, and a page to play with.

protocol.py   one connection: time limits, and how many there may be
guard.py      one request: who may ask, from where; counted and logged
app.py        the routes; completions.py, tools.py and static.py answer them
engine.py     one thread per model, which owns its decoder; ticket.py is what it shares with a request
server.py     the port, the signals, the end
"""

from smalllm.serving.app import create_app
from smalllm.serving.limits import Limits
from smalllm.serving.models import Served, load_models
from smalllm.serving.server import Server, serve

__all__ = ["Limits", "Served", "Server", "create_app", "load_models", "serve"]
