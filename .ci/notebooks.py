"""Runs every notebook from a clean kernel; fails on an error or if it takes long."""

import pathlib
import sys
import time

import nbclient
import nbformat

LIMIT = 120  # seconds

failed = False
for path in sorted(pathlib.Path("notebooks").glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    if not any(cell.get("outputs") for cell in notebook.cells):
        print(f"{path}: committed without its outputs")
        failed = True
    start = time.monotonic()
    try:
        nbclient.NotebookClient(
            notebook, timeout=LIMIT, resources={"metadata": {"path": path.parent}}
        ).execute()
    except Exception as error:
        print(f"{path}: {error}")
        failed = True
    seconds = time.monotonic() - start
    print(f"{path}: {seconds:.0f} s")
    failed |= seconds > LIMIT
sys.exit(failed)
