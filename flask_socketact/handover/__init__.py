"""What crosses a restart.

1. systemd stops ``NAME-relay.service``, before the service itself: the *relay* (`relay`, as root) moves the workers to
   a scope, ``NAME-drain-PID-START.scope``, where they keep serving. PID and START are those of the main process.
2. systemd ends the old master. It sees that its workers have moved, and exits without waiting (`Pool.forget_relayed`).
3. systemd starts the new master with the same listeners and the same *mailbox*. Its workers load the application.
4. When all of them accept, the new master notes in the old scoreboard that new connections are its own
   (`OldGenerations.supersede`), and sends ``READY=1``.
5. When systemd has processed that, the new master sends SIGURG to the old workers (`OldGenerations.retire`): they
   drain, and hand each connection over through the mailbox (`mailbox`) as soon as it has no request.
6. An old worker exits when it has no connections left. What still runs after the drain time gets SIGTERM, then SIGKILL.

A stop of the service stops the scopes, too (``PartOf=``): their workers get SIGWINCH, and drain, but hand nothing over.
The names and signals are in `protocol`.
"""
