"""`python -m wd_trio` is `wd-trio`."""

import sys

from wd_trio.cli import main

sys.exit(main())
