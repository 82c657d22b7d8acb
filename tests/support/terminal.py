"""A login shell on a terminal of a machine, and the network that a new machine has."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pexpect
from pexpect.replwrap import REPLWrapper

from tests.support.machine import Machine, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROMPT, _CONTINUATION = "[typed]", "[more]"  #: not what a program prints
_COLORS = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])")


class Terminal:
    """Types commands as a user who has logged in. A pager prints all at once."""

    def __init__(self, machine: Machine, user: str, timeout: float = 400) -> None:
        """Log in as `user`; a command may take `timeout` seconds."""
        self._timeout = timeout
        # systemd-run: the shell belongs to the machine's systemd, as after a login at its console.
        login = ("systemd-run", "--quiet", "--pty", "--setenv=TERM=xterm", "su", "--login", user)
        self._child = pexpect.spawn(
            "nsenter",
            [f"--target={machine.leader}", "--all", *login],
            echo=False,
            encoding="utf-8",
            dimensions=(100, 160),
        )
        self._child.expect("[$#] ", timeout=timeout)  # what is typed before the shell reads is lost
        # The quotes keep the prompts from being found in the echo of this line.
        prompts = f"PS1='{_PROMPT[:2]}''{_PROMPT[2:]}' PS2='{_CONTINUATION[:2]}''{_CONTINUATION[2:]}' PROMPT_COMMAND="
        self._child.sendline(f"stty -echo; bind 'set enable-bracketed-paste off'; export PAGER=cat; {prompts}")
        self._shell = REPLWrapper(self._child, _PROMPT, None, continuation_prompt=_CONTINUATION)

    def type(self, command: str) -> tuple[int, str]:
        """Type a command; return its exit status, and what it printed.

        :raises TimeoutError: it does not end, as when it asks a question; the text has what it printed.
        """
        try:
            printed = self._shell.run_command(command, timeout=self._timeout)
            status = self._shell.run_command("echo $?", timeout=10)
        except pexpect.TIMEOUT:
            raise TimeoutError(str(self._child.before)) from None
        return int(status), _COLORS.sub("", printed).replace("\r\n", "\n")

    def close(self) -> None:
        self._child.close(force=True)


@contextmanager
def network(machine: Machine) -> Iterator[None]:
    """Give a machine a network that reaches what this machine reaches, without its ports."""
    ready, tell = os.pipe()
    command = ("slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback", f"--ready-fd={tell}")
    with subprocess.Popen(
        [*command, str(machine.leader), "tap0"],
        pass_fds=[tell],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as slirp:
        os.close(tell)
        try:
            if os.read(ready, 1) != b"1":
                raise MachineError("slirp4netns gives the machine no network: try it by hand")
            machine.path("/etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
            yield
        finally:
            os.close(ready)
            slirp.terminate()
