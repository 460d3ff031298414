"""The smalllm command on a disk whose every sync takes a second, for test_torchrun_signals.py."""

import os
import sys
import time

from smalllm import cli

if __name__ == "__main__":
    sync = os.fsync

    def slowly(descriptor: int) -> None:
        time.sleep(1.0)
        sync(descriptor)

    os.fsync = slowly  # type: ignore[assignment]
    sys.exit(cli.main(sys.argv[1:]))
