"""All keys of this package in the WSGI environ (PEP 3333). docs/api.md lists the public ones."""

from __future__ import annotations

# Set by the worker.
LISTENER = "socketact.listener"  #: ``FileDescriptorName=`` (str); absent without activation
DRAINING = "socketact.draining"  #: function that returns whether the worker drains (bool)
FIRST = "socketact.first"  #: whether the request is the first of its connection (bool)
#: When the previous response on the connection ended (CLOCK_MONOTONIC, seconds); 0.0: unknown.
FREE_SINCE = "socketact.free_since"
TRUSTS_PEER = "socketact.trusts_peer"  #: function that returns whether forwarding headers of the peer count (bool)

# Set by the application, before the response begins.
ID_HEADER = "socketact.id_header"  #: name of the header in which the response has the request's ID (str)
#: Function that is called after the response, with environ, status (``200 OK``; None: the request failed) and the
#: duration in seconds.
OBSERVE = "socketact.observe"
#: Flask's request, for that function: Werkzeug's own reference is cleared before the response has been sent.
REQUEST = "socketact.request"

REQUEST_ID = "socketact.request_id"  #: absent until the ID is needed (str); see request_context.py

# Private to one side.
EXCHANGE = "socketact.exchange"  #: workers/gunicorn_body.py
MEMBER = "socketact.member"  #: application/extension.py
SENT = "socketact.sent"  #: application/deadlines.py
WAITED = "socketact.waited"  #: application/queue_time.py
