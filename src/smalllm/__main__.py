"""`python -m smalllm`: the command line."""

from smalllm.cli import entry

if __name__ == "__main__":
    entry()
