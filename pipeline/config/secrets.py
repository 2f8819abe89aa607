"""Blanks passwords, keys and tokens in the settings that a run records."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

BLANK = "***"
_HARMLESS = r"(?:[\w-]*_)?(?i:longest|shortest|first|last|sort|public|eos|bos|pad|unk|mask)_(?i:key|token)\b"
"""Names such as `eos_token` and `sort_key`."""
_PASSWORD = r"[\w-]*(?i:passw(?:or)?d|passphrase|secret|credential|(?:api|access|private|auth)[_-]?key)[\w-]*"
_TOKEN_OR_KEY = r"(?:[\w-]*(?i:token)|[\w-]+[_-](?i:key)|[\w-]*[a-z]Key)[_-]?\d*"
"""`hf_token` and `openai_key`, but not `tokens`, `tokenizer`, `keys` or `key_mode`."""
_VARIABLE = r"(?:[A-Z\d]+_)*(?:KEY|TOKEN)(?:_[A-Z\d]+)*"
"""Environment variables such as `OPENAI_KEY_2`."""
_NAME = rf"(?<![\w-])(?!{_HARMLESS})(?:{_PASSWORD}|{_TOKEN_OR_KEY}|{_VARIABLE})(?![\w-])"
_QUOTED = r"""(?P<quote>\\*["'])(?:(?!(?P=quote)).)*(?:(?P=quote)|$)"""
_SHELL_WORD = r"""[^\s"'\\&;]+?(?=[)\]},]*(?:[\s"'\\&;]|$))"""
_MAPPING_VALUE = r"""[^\s"'\\&;,)\]}]+"""
_SECRET = re.compile(_NAME)
_ASSIGNED = re.compile(
    rf"""({_NAME}(?:\\*["'])?\s*(?:(?P<equals>=)|:)\s*)"""
    rf"(?:{_QUOTED}|(?(equals){_SHELL_WORD}|{_MAPPING_VALUE}))",
    re.DOTALL,
)
_ACCOUNT = re.compile(r"(?<=://)[^\s/?#\"']+@")
"""User and password in an address."""


def is_secret(key: str) -> bool:
    """Whether the name of a configuration key looks like that of a password, key or token."""
    return bool(_SECRET.search(str(key)))


def without_secrets(overrides: Sequence[str]) -> list[str]:
    """A command line with the values of secret keys blanked, also if assigned inside other values."""
    parts = (override.partition("=") for override in overrides)
    return [
        f"{key}={BLANK}" if sign and is_secret(key) else masked(f"{key}{sign}{value}")
        for key, sign, value in parts
    ]


def masked(value: object) -> Any:
    """A configuration, or a part of it, with its secrets blanked and everything else unchanged.

    Secrets are the values of keys with secret names and, inside texts, the values that are assigned to such
    names (`HF_TOKEN=…`, `password: …`) and the account in an address.
    """
    if isinstance(value, str):
        return _ASSIGNED.sub(rf"\g<1>\g<quote>{BLANK}\g<quote>", _ACCOUNT.sub(f"{BLANK}@", value))
    if isinstance(value, Mapping):
        return {
            key: BLANK if is_secret(key) and not _is_switch(entry) else masked(entry)
            for key, entry in value.items()
        }
    return [masked(entry) for entry in value] if isinstance(value, list | tuple) else value


def _is_switch(entry: object) -> bool:
    return isinstance(entry, bool) or entry in (None, "")
