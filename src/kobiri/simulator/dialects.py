"""How an operator may behave where sources disagree: what its simulator plays, and which account fits that."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Dialect:
    """Options of a simulator, and the values of an account that fit them.

    `unread`: the kinds of movement whose answers in this dialect prove nothing; a person settles each of those.
    `doubtful`: it says "failed" so that only repetition proves it.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    doubtful: bool = False
