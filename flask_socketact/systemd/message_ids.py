"""Message IDs of a service's events, which stay when the words change: ``journalctl MESSAGE_ID=...``.

Created once by ``systemd-id128 new``, and never changed, as users' alarms rely on them.
"""

from __future__ import annotations

MESSAGE_ID = "MESSAGE_ID"

#: The workers begin to load the application.
STARTED = {MESSAGE_ID: "2f214c77c9f6452ca2205413e4c4ef75"}
#: All workers accept; READY=1 was sent.
READY = {MESSAGE_ID: "2e4165c3be4442ffb4736aed620afe41"}
#: All workers have the new configuration and code.
RELOADED = {MESSAGE_ID: "a6b2351e7956409f9a8956eb7261525f"}
#: A reload failed; the old workers keep serving.
RELOAD_FAILED = {MESSAGE_ID: "4d430a7225be456083e392a714b1443e"}
#: The relay has moved a worker to a scope, where it serves while the service restarts.
RELAYED = {MESSAGE_ID: "76b2019296b241fcb29abf83d43cbc24"}
#: A worker has handed over idle connections; the field CONNECTIONS has their number.
CARRIED = {MESSAGE_ID: "3ffda90dea03449698c913dbea786458"}
#: A worker has no connections left, and exits.
DRAINED = {MESSAGE_ID: "c0dc140e7713417ca179263de79cea94"}
#: A step of flask-socketact deploy.
DEPLOYMENT = {MESSAGE_ID: "bccf0f9e52434739a688c8fd13f3de0c"}
