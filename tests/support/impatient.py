"""The server, with a supervisor that calls a worker hung much sooner: run with the program's own arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wd_trio.config_load import load
from wd_trio.ops import serving
from wd_trio.ops.children import ChildOptions

SILENCE_S = 4.0

if __name__ == "__main__":
    config = load(Path(sys.argv[-1]), os.environ)
    sys.exit(serving.serve(config, child_options=ChildOptions(ping_s=0.2, silence_s=SILENCE_S)))
