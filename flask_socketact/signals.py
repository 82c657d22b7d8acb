"""Events of the service as blinker signals, for the application. Unix signals to workers: handover/protocol.py.

The sender is the application. Receivers run in a thread of their own. A drain waits for them, up to the drain time.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: All workers of this worker's generation serve requests, and systemd knows that the service is ready.
generation_ready = _signals.signal("generation-ready")

#: The worker accepts no new connections, and exits when its work is done. The sync worker sends this after its
#: current request.
drain_begun = _signals.signal("drain-begun")
