"""Completion in shells: the script, which click makes, and where each shell finds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.shell_completion import get_completion_class

from flask_socketact import files
from flask_socketact.errors import NotBegunError

PROGRAM = "flask-socketact"
#: By this variable a script asks the command for completions.
_VARIABLE = "_FLASK_SOCKETACT_COMPLETE"
_BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"


@dataclass(frozen=True)
class Shell:
    """Where a shell looks for completions, and what makes it look there."""

    file: str
    system_folder: str  #: for what an administrator installs; packages have another
    user_folder: Callable[[], Path]
    hint: Callable[[Path], str]  #: what is to be typed to use the file

    def path(self, *, is_root: bool) -> Path:
        """Return where the script belongs: for all users if root installs it."""
        return (Path(self.system_folder) if is_root else self.user_folder()) / self.file


def _folder(variable: str, otherwise: str, *below: str) -> Path:
    """Return a folder of the XDG Base Directory Specification."""
    return Path(os.environ.get(variable) or Path.home() / otherwise, *below)


def _bash_folder() -> Path:
    ours = os.environ.get("BASH_COMPLETION_USER_DIR")
    return (Path(ours) if ours else _folder("XDG_DATA_HOME", ".local/share", "bash-completion")) / "completions"


def _bash_hint(path: Path) -> str:
    new = "New shells use it" if os.path.exists(_BASH_COMPLETION) else "New shells need the package bash-completion"
    return f"{new}; in this one type: source {path}"


def _zsh_hint(path: Path) -> str:
    look = "autoload -Uz compinit && compinit"
    if path.is_relative_to("/usr"):
        return f"New shells use it if ~/.zshrc runs compinit; in this one type: {look}"
    return f"Type this, and add it to ~/.zshrc: fpath=({path.parent} $fpath) && {look}"


SHELLS = {
    "bash": Shell(PROGRAM, "/usr/local/share/bash-completion/completions", _bash_folder, _bash_hint),
    "zsh": Shell(f"_{PROGRAM}", "/usr/local/share/zsh/site-functions", lambda: Path.home() / ".zfunc", _zsh_hint),
    "fish": Shell(
        f"{PROGRAM}.fish",
        "/etc/fish/completions",
        lambda: _folder("XDG_CONFIG_HOME", ".config", "fish/completions"),
        lambda _path: "fish uses it at once: press Tab",
    ),
}


def script(shell: str) -> str:
    """Return the script that makes a shell complete the commands."""
    from flask_socketact.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        raise NotBegunError(f"this version of click does not complete in {shell}: choose another shell")
    source = kind(main, {}, PROGRAM, _VARIABLE).source()
    # By default bash splits words at an @, and could not complete the instances of a template.
    return f"{source}\nCOMP_WORDBREAKS=${{COMP_WORDBREAKS//@}}\n" if shell == "bash" else source


def install(path: Path, text: str) -> None:
    """Write a script, and its folder if there is none.

    :raises NotBegunError: it cannot be written, or the file there is not ours.
    """
    try:
        if os.path.lexists(path) and (path.is_symlink() or _VARIABLE not in files.read(path)):
            raise NotBegunError(f"{path} was not made by flask-socketact and was not changed: move it away first")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text)
    except OSError as error:
        raise NotBegunError(
            f"{path} cannot be written: {error.strerror}: print the script without --install, and save it yourself"
        ) from None
