"""Signing in with an identity provider: Streamlit's own ``st.login``, where ``[auth]`` stands in its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import streamlit as st

from ema_core.errors import EmaError
from pages.widgets.chrome import plain

_SHARED = {"redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url", "client_kwargs", "expose_tokens"}


@cache
def providers() -> tuple[str, ...]:
    """The names of the providers in the secrets; ``("",)`` for one without a name, nothing where there is none."""
    try:
        section = st.secrets.get("auth", {})
    except FileNotFoundError:
        return ()
    if not section:
        return ()
    named = tuple(name for name, value in section.items() if isinstance(value, Mapping) and name not in _SHARED)
    return (("",) if "client_id" in section else ()) + named


def sign_in(names: tuple[str, ...]) -> None:
    """A button a provider.

    Raises:
        EmaError: what Streamlit signs in with is not installed.
    """
    try:
        import authlib  # noqa: F401
    except ImportError:
        raise EmaError(
            "An identity provider is configured, but Authlib is not installed, so nobody can sign in.",
            "Install it (pip install 'Authlib>=1.3.2') and start the app again, or take [auth] out of the secrets.",
        ) from None
    for name in names:
        st.button(
            f"Sign in with {plain(name)}" if name else "Sign in", key=f"sign-in-{name}", type="primary", on_click=st.login,
            args=(name,) if name else (),
        )  # fmt: skip


def signed_in() -> tuple[str, str] | None:
    """By which identity, and under which name, this browser is signed in; never by what could be typed in an address."""
    if not getattr(st.user, "is_logged_in", False):
        return None
    known = {name: str(st.user.get(name) or "") for name in ("iss", "sub", "email", "name")}
    identity = f"{known['iss']} {known['sub']}".strip() or known["email"]
    return (identity, known["name"] or known["email"].partition("@")[0]) if identity else None


def sign_out() -> None:
    st.session_state.pop("person", None)
    st.logout()
