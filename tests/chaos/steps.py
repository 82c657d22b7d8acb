"""The `reached` of a build for tests: this file is appended to flask_socketact/handover/steps.py.

A process that reaches a step for which the file /run/chaos/STEP exists renames it to /run/chaos/STEP.PID, and stops
itself. Of several processes one succeeds. A loader also makes a file of its number in /run/chaos-loaders.
"""

import os
import signal

from flask_socketact.handover.steps import Step


def reached(step: Step) -> None:
    if step is Step.LOADER_LOADS:
        os.close(os.open(f"/run/chaos-loaders/{os.getpid()}", os.O_CREAT, 0o600))
    armed = f"/run/chaos/{step.value}"
    try:
        os.rename(armed, f"{armed}.{os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
