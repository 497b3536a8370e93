"""Runs a process and says what it cost."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Timer

_UNIT = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`, in bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took from its start to its end: `cpu` seconds (user and system), and its `peak` resident set in MB.

    A child's peak begins at its parent's: one that is no higher is NaN, because it tells nothing.
    """

    cpu: float
    peak: float


def measure(arguments: Sequence[str], environment: Mapping[str, str], seconds: float = 120) -> Cost:
    """Run this Python with `arguments` to its end, which must be exit code 0 within so many `seconds`.

    Raises:
        RuntimeError: it did not, with the end of its output.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        deadline = Timer(seconds, process.kill)
        deadline.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            deadline.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            said = output.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{said}")
    return cost(used)


def cost(used: resource.struct_rusage) -> Cost:
    """What a child took that has ended."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = used.ru_maxrss * _UNIT / 1e6 if used.ru_maxrss > ours else math.nan
    return Cost(used.ru_utime + used.ru_stime, peak)
