"""Scripts beside the tests, run with several devices that XLA makes up on a CPU.

XLA reads the number of devices once, so each of them is a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def command(script: str, *arguments: Any) -> list[str]:
    """What runs a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]


def environment(devices: int = 8) -> dict[str, str]:
    """That of a process with so many devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
        # Else a pool of few threads waits for ever.
        "NPROC": "32",
    }


def printed_by(script: str, *arguments: Any, timeout: float = 300) -> str:
    """What a script prints, with eight devices."""
    result = subprocess.run(
        command(script, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
