"""`python -m optareg`: the demonstration on real data; see `optareg.demo`."""

import os
import sys

from optareg.demo.cli import INTERRUPTED, main

if __name__ == "__main__":
    status = main()
    if status == INTERRUPTED:
        # At once: threads of XLA may still compile or train.
        os._exit(status)
    sys.exit(status)
