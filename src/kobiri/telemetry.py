"""Logs: JSON lines with ids, or pretty text; phone numbers masked, secrets never."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

# A last net: whatever a caller lets slip, no full phone number and no API key reaches a log line.
LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z-])(\+?[0-9]{5})[0-9]{3,8}([0-9]{2})(?![0-9A-Za-z-])")
API_KEY = re.compile(r"(kob_(?:live|test)_[0-9A-Za-z]{12}_)[0-9A-Za-z]+")

SHORTEST_SECRET = 10  # a phone number that LONG_NUMBER can find
SHORTEST_NUMBER = 10 ** (SHORTEST_SECRET - 1)
OWN_IDS = frozenset({"ts", "level", "request_id", "trace_id", "tenant_id", "payment_id"})

OTHER_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029", 0x7F: "\\u007f"}

EventDict = MutableMapping[str, Any]

encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(level: str, style: str) -> None:
    """Set the log up for this process, on standard error: `style` is "json" or "pretty"."""
    renderer: Any = _pretty if style == "pretty" else _json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Foreign()], force=True)


class _Foreign(logging.Handler):
    """What libraries say through Python's own logging becomes a line like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        write = structlog.get_logger(record.name).log
        write(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def redact(text: str) -> str:
    """Mask what looks like a phone number or an API key."""
    return API_KEY.sub(r"\1[hidden]", LONG_NUMBER.sub(r"\1•••••\2", text))


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        # Our own ids hold nothing to hide; looking into each of them doubled the price of a line.
        if isinstance(value, str):
            if name not in OWN_IDS and len(value) >= SHORTEST_SECRET:
                event[name] = redact(value)
        elif isinstance(value, int):
            if value >= SHORTEST_NUMBER:
                event[name] = redact(str(value))
        elif value is not None and not isinstance(value, float):
            event[name] = redact(repr(value))  # an object knows what it may show, its fields do not
    return event


def _json(_logger: object, _method: str, event: EventDict) -> str:
    ordered = {"ts": event.pop("ts", None), "level": event.pop("level", None), "event": event.pop("event", None)}
    return _one_line(encode({**ordered, **event}).decode())


def _pretty(_logger: object, _method: str, event: EventDict) -> str:
    time, level, text = event.pop("ts", ""), event.pop("level", ""), event.pop("event", "")
    rest = " ".join(f"{name}={encode(str(value)).decode()[1:-1]}" for name, value in event.items())
    return _one_line(f"{str(time)[11:23]} {level:<7} {encode(str(text)).decode()[1:-1]} {rest}".rstrip())


def _one_line(text: str) -> str:
    """JSON leaves these line breaks of Unicode as they are; a log reader may not."""
    return text if text.isascii() and "\x7f" not in text else text.translate(OTHER_LINE_BREAKS)
