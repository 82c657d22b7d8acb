"""Why something of somebody else's has failed: whole for the journal, and as much of it as all may read."""

from __future__ import annotations

import os
import sysconfig
import traceback
from dataclasses import dataclass

from gunicorn.errors import AppImportError

from flask_socketact.errors import SocketActError
from flask_socketact.text import describe, printable

#: Where files are not the application's: its own line says more than that of a driver, in which the error arose.
_LIBRARIES = (sysconfig.get_path("stdlib"), os.path.dirname(os.path.dirname(__file__)))
_PACKAGES = ("/site-packages/", "/dist-packages/")


@dataclass(frozen=True)
class Failure:
    """Why something has failed, in one line."""

    text: str  #: for the journal
    public: str  #: for ``systemctl status``, which every local user reads: what an exception says may be secret

    @classmethod
    def known(cls, text: str) -> Failure:
        """Describe a failure in our own words, which quote nothing."""
        return cls(text, text)

    @classmethod
    def of(cls, error: BaseException, begin: str = "") -> Failure:
        """Describe an error; the line starts with `begin`. Our own errors quote nothing but what caused them, and
        gunicorn's quotes what the command line has for the application."""
        if not isinstance(error, SocketActError | AppImportError):
            return cls(begin + describe(error), begin + locate(error))
        return cls.known(f"{begin}{error}") if error.__cause__ is None else cls.of(error.__cause__, f"{begin}{error}: ")

    def censor(self, text: str) -> str:
        """Return `text` as all may read it, if this failure is quoted in it."""
        return text.replace(self.text, self.public)


def locate(error: BaseException) -> str:
    """Return of what type an error is and in which line of the application it arose: ``KeyError at /srv/app.py:3``."""
    lines = _lines(error)
    if error.__cause__ is not None and not any(map(_is_own, lines)):
        error = error.__cause__
        lines = _lines(error)
    own = list(filter(_is_own, lines))
    return printable(f"{type(error).__name__} at {(own or lines)[-1]}" if lines else type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    """Return the lines that `error` has passed, as ``file:line``; the innermost last. Only of files: what else code may
    say that it comes from (``compile()``) may be secret, too."""
    passed = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        passed.append((error.filename, error.lineno))
    return [f"{file}:{line}" for file, line in passed if os.path.isfile(file)]


def _is_own(line: str) -> bool:
    return not line.startswith(_LIBRARIES) and not any(folder in line for folder in _PACKAGES)
