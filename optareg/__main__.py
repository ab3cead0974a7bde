"""`python -m optareg`: the demonstration on real data; see `optareg.demo`."""

import sys

from optareg.demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
