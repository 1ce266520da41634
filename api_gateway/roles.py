"""Who may do what: the token's roles and tenant against the use case's; whatever is not granted is denied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from api_gateway.tokens import Principal
from fasttrack.errors import AuthorizationError, NotFoundError
from fasttrack.usecase.serving import Action, Role
from fasttrack.usecase.spec import suggestion

if TYPE_CHECKING:
    from api_gateway.deployments import Served


def allowed(principal: Principal, roles: Mapping[str, Role]) -> frozenset[Action]:
    """The actions that the principal's roles grant on a use case with these `roles`."""
    named = principal.roles & roles.keys()
    return frozenset(action for name in named for action in roles[name].grants(principal.tenant))


def authorize(principal: Principal, served: Served, action: Action) -> frozenset[Action]:
    """The principal's actions on a use case, if `action` is among them.

    Raises:
        AuthorizationError: it isn't.
    """
    granted = allowed(principal, served.usecase.roles)
    if action not in granted:
        raise AuthorizationError(
            f"no role of this token allows {action!r} on use case {served.name!r}.",
            fix="Ask the use case's owner for a role that does.",
        )
    return granted


def visible(principal: Principal, every: Iterable[Served]) -> list[Served]:
    """The use cases on which the principal may do anything at all."""
    return [served for served in every if allowed(principal, served.usecase.roles)]


def unseen(principal: Principal, name: str, every: Iterable[Served]) -> AuthorizationError | NotFoundError:
    """The error for a use case that is not there or that this token may not see: the two can't be told apart."""
    names = [served.name for served in visible(principal, every)]
    if not names:
        return AuthorizationError(
            "no role of this token is known to any use case.", fix="Ask the use case's owner for a role."
        )
    return NotFoundError(
        f"there is no use case {name[:64]!r} for this token.", fix=suggestion(name[:64], names).capitalize()
    )
