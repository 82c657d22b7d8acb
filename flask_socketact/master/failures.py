"""Why the application, or a hook, failed: in full for the journal, and without possible secrets for all users."""

from __future__ import annotations

import os
import sysconfig
import traceback
from dataclasses import dataclass

from gunicorn.errors import AppImportError

from flask_socketact.errors import SocketActError
from flask_socketact.text import describe, printable

#: Where files are not the application's own: the line of the application says more than the line of a driver.
_LIBRARIES = (sysconfig.get_path("stdlib"), os.path.dirname(os.path.dirname(__file__)))
_PACKAGES = ("/site-packages/", "/dist-packages/")


@dataclass(frozen=True)
class Failure:
    """Why something has failed, in one line."""

    text: str  #: for the journal
    public: str  #: for ``systemctl status``, which all local users can read: an exception's text may hold a secret

    @classmethod
    def known(cls, text: str) -> Failure:
        """Describe a failure in our own words, which quote no exception."""
        return cls(text, text)

    @classmethod
    def of(cls, error: BaseException, begin: str = "") -> Failure:
        """Describe an error, after the words `begin`. The texts of our own errors are public, except for their causes;
        and so is that of gunicorn's, which quotes the command line."""
        if not isinstance(error, SocketActError | AppImportError):
            return cls(begin + describe(error), begin + locate(error))
        return cls.known(f"{begin}{error}") if error.__cause__ is None else cls.of(error.__cause__, f"{begin}{error}: ")

    def censor(self, text: str) -> str:
        """Replace this failure in `text`, if it is quoted there, by its public form."""
        return text.replace(self.text, self.public)


def locate(error: BaseException) -> str:
    """Return the type of an error, and the application's line that raised it: ``KeyError at /srv/app.py:3``."""
    lines = _lines(error)
    if error.__cause__ is not None and not any(map(_is_own, lines)):
        error = error.__cause__
        lines = _lines(error)
    own = list(filter(_is_own, lines))
    return printable(f"{type(error).__name__} at {(own or lines)[-1]}" if lines else type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    """Return the lines of the traceback of `error`, as ``file:line``, the innermost last. Lines of existing files only:
    other names (``compile()``) may hold a secret, too."""
    passed = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        passed.append((error.filename, error.lineno))
    return [f"{file}:{line}" for file, line in passed if os.path.isfile(file)]


def _is_own(line: str) -> bool:
    return not line.startswith(_LIBRARIES) and not any(folder in line for folder in _PACKAGES)
