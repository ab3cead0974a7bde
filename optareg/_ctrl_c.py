"""`python -m optareg` ends at Ctrl-C with one line, also while it still imports.

The package is imported before `__main__` runs, and that takes a second or two. Until
then Python calls the program "-m". Nothing happens at any other import.
"""

import itertools
import os
import signal
import sys

INTERRUPTED = 130


def leave(*_: object) -> None:
    """Ends the process at once: threads of XLA may still compile or train."""
    os.write(2, b"\npython -m optareg: interrupted\n")
    os._exit(INTERRUPTED)


if sys.argv[:1] == ["-m"] and ("-m", "optareg") in itertools.pairwise(sys.orig_argv):
    signal.signal(signal.SIGINT, leave)
