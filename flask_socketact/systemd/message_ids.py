"""Message ids of what happens in a service's life: ``journalctl MESSAGE_ID=...``, whatever the words are.

Made once, as ``systemd-id128 new`` does, and never changed: somebody's alarm may wait for one.
"""

from __future__ import annotations

MESSAGE_ID = "MESSAGE_ID"

#: the master has the listeners, and the workers begin to load the application
STARTED = {MESSAGE_ID: "2f214c77c9f6452ca2205413e4c4ef75"}
#: systemd hears READY=1: every worker accepts
READY = {MESSAGE_ID: "2e4165c3be4442ffb4736aed620afe41"}
#: every worker has the new configuration and code
RELOADED = {MESSAGE_ID: "a6b2351e7956409f9a8956eb7261525f"}
#: a reload did not succeed; the workers before it serve on
RELOAD_FAILED = {MESSAGE_ID: "4d430a7225be456083e392a714b1443e"}
#: a worker serves on, outside the service, while that restarts
RELAYED = {MESSAGE_ID: "76b2019296b241fcb29abf83d43cbc24"}
#: a worker has handed idle connections to others: so many as the field CONNECTIONS says
CARRIED = {MESSAGE_ID: "3ffda90dea03449698c913dbea786458"}
#: a worker has nothing left, and leaves
DRAINED = {MESSAGE_ID: "c0dc140e7713417ca179263de79cea94"}
#: a step of flask-socketact deploy
DEPLOYMENT = {MESSAGE_ID: "bccf0f9e52434739a688c8fd13f3de0c"}
