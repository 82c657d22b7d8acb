"""What a service goes through, as signals of blinker; their sender is the application.

Receivers run in a thread of their own, and a drain waits for their end, within the drain time.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: All workers of this worker's generation answer, and systemd knows that the service is ready.
generation_ready = _signals.signal("generation-ready")

#: The worker takes nothing new, and leaves when it has nothing left. The sync worker sends it when the request
#: that it is in has ended.
drain_begun = _signals.signal("drain-begun")
