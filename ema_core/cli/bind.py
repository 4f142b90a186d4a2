"""Where a shared app listens, and under which names browsers may come."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import typer

from ema_core.errors import EmaError
from ema_core.shared import codes, room

LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Bind:
    """``names``: those by which browsers reach it; any other Host is refused (DNS rebinding)."""

    host: str
    port: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, host: str, port: int, further: Sequence[str] = ()) -> Bind:
        """Raises:
        EmaError: a name that is none.
        """
        for name in (host, *further):
            if not name or any(letter in name for letter in "/ @?#*") or name.startswith("-"):
                raise EmaError(f'"{name}" is no name of a machine.', "Write it without http:// and port.")
        own = _own_names() if host in EVERYWHERE else () if host in LOCAL else (host,)
        return cls(host, port, tuple(dict.fromkeys([*further, *own])))

    @property
    def open(self) -> bool:
        """Does anybody but this machine reach it?"""
        return bool(self.names)

    def words(self) -> list[str]:
        """For Streamlit's command line."""
        hosts = [word for name in (*LOCAL, *self.names) for word in ("--server.allowedHosts", name)]
        return ["--server.address", self.host, *hosts]

    @property
    def addresses(self) -> list[str]:
        """What participants type."""
        names = self.names or ("localhost",)
        return [f"http://{f'[{name}]' if ':' in name else name}:{self.port}" for name in names]

    def announce(self) -> None:
        """Print how people come in, and who leads."""
        room.change(addresses=self.addresses)
        found = codes.codes()
        typer.echo("  shared: names, a fair queue and limits; the page Room shows who is here")
        for address in self.addresses[:4]:
            typer.echo(f"  participants: {address}{'/?room=' + found['room'] if self.open else ''}")
        typer.echo(f"  instructor's code (on the page Room): {found['instructor']}")
        if self.open:
            typer.echo("  it travels unencrypted (http): in a network that is not yours, put a proxy with TLS before it")
        sys.stdout.flush()


def _own_names() -> tuple[str, ...]:
    """The machine's addresses in its networks, and its name."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith(("127.", "169.254."))
    ]
    name = socket.gethostname().lower()
    return (*found, name, *([f"{name}.local"] if "." not in name else []))
