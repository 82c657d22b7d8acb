"""Names of units: of services, of instances of templates, and of the units next to them.

``app@.service`` is a template, of which ``app@1.service`` is an instance: systemd.unit(5).
"""

from __future__ import annotations


def is_template(name: str) -> bool:
    """Return whether a name without its type, such as ``app@``, is that of a template."""
    return name.endswith("@")


def is_instance(name: str) -> bool:
    """Return whether a name without its type, such as ``app@1``, is that of an instance."""
    return "@" in name and not is_template(name)


def template_of(name: str) -> str:
    """Return the name under which the units of a service were made: ``app@`` for ``app@1``, ``app`` for ``app``."""
    prefix, at, _ = name.partition("@")
    return f"{prefix}{at}"


def alongside(name: str, what: str) -> str:
    """Return the name of a unit that belongs to a service.

    :param name: of the service: ``app``, ``app@`` or ``app@1``
    :param what: ``relay.service``, for ``app-relay.service``, ``app-relay@.service`` and ``app-relay@1.service``
    """
    prefix, at, instance = name.partition("@")
    stem, _, kind = what.rpartition(".")
    return f"{prefix}-{stem}{at}{instance}.{kind}"


def of_instance(unit: str, name: str) -> str:
    """Return a unit of the service `name`: ``app-admin@1.socket`` for ``app-admin@.socket`` and ``app@1``."""
    return unit.replace("@.", f"@{name.partition('@')[2]}.")


def within(unit: str) -> str:
    """Return how a unit is named in the units next to it: ``%i`` stands for the instance."""
    return unit.replace("@.", "@%i.")


def scope_stem(name: str) -> str:
    """Return how the names of the scopes of a service begin: scopes cannot have instances, and so no ``@``."""
    return name.replace("@", ":", 1)
