"""Shared mode: one machine, many browsers. Who acts, what each may do and how much, and what the room is told. Torch-free.

Who acts is asked where something is done (launch, enqueue, delete, ask), not only where a button stands: whoever serves several people
says so with ``identify_by``. The command line and the worker are nobody in particular and may do everything.
"""

from ema_core.shared.person import (
    HOST,
    Person,
    Role,
    acting_as,
    allow,
    allow_host,
    current,
    enabled,
    exempt,
    identify_by,
    mine,
    owner,
    said_owner,
    why_not,
)

__all__ = [
    "HOST", "Person", "Role", "acting_as", "allow", "allow_host", "current", "enabled", "exempt", "identify_by", "mine", "owner", "said_owner",
    "why_not",
]  # fmt: skip
