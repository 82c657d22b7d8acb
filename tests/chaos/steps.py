"""The `reached` of a build for tests: this file is appended to flask_socketact/handover/steps.py.

A process that reaches a step for which the file /run/chaos/STEP exists renames it to /run/chaos/STEP.PID, and stops
itself. Of several processes one succeeds.
"""

import os
import signal

from flask_socketact.handover.steps import Step


def reached(step: Step) -> None:
    armed = f"/run/chaos/{step.value}"
    try:
        os.rename(armed, f"{armed}.{os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
