"""The states of a connection."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """What a connection waits for. Only methods of `Connection` change it.

    ====================  =====================================================  ====================================
    from                  by                                                     to
    ====================  =====================================================  ====================================
    ``IDLE``              :meth:`~.Connection.enqueue`: bytes have arrived        ``QUEUED``
    ``READING_HEADERS``   :meth:`~.Connection.enqueue`: more bytes have arrived   ``QUEUED``
    ``READING_BODY``      :meth:`~.Connection.enqueue`: more bytes have arrived   ``QUEUED``
    ``QUEUED``            :meth:`~.Connection.begin_turn`: a thread is free       ``IN_REQUEST``
    ``IN_REQUEST``        :meth:`~.Connection.end_turn`                           ``IDLE``, ``READING_HEADERS`` or
                                                                                 ``READING_BODY``
    ``IN_REQUEST``        :meth:`~.Connection.begin_sending`                      ``SENDING``
    ``SENDING``           :meth:`~.Connection.end_turn`                           as above
    any                   :meth:`~.Connection.begin_close`                        ``CLOSING``
    ====================  =====================================================  ====================================
    """

    IDLE = auto()  #: for its client: no part of the next request has arrived
    READING_HEADERS = auto()  #: for its client: the headers of the next request are incomplete
    READING_BODY = auto()  #: for its client: the first part of a body is incomplete
    QUEUED = auto()  #: for a thread
    IN_REQUEST = auto()  #: for the thread that serves it
    SENDING = auto()  #: for its client to take the end of a response
    CLOSING = auto()  #: for its client to close: we have sent FIN


#: A request is in flight, and needs no thread now.
WITHOUT_THREAD = (State.READING_BODY, State.SENDING)


class NextRequest(Enum):
    """What has been read from a connection after the last request."""

    NONE = auto()
    UNPARSED = auto()  #: bytes that the parser has not seen yet; maybe a whole request
    INCOMPLETE = auto()  #: headers that the parser has found incomplete
    BODY = auto()  #: headers, and a part of the body
