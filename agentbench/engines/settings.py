"""Options that every HTTP engine takes, checked before a connection is made. Leaves out keys (`secret`)."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from typing import Any

import httpx

from ..config import MOST_SECONDS, refuse_keys
from ..errors import UsageError


def checked_url(text: str) -> str:
    """Check an http address and drop a trailing slash.

    Raises: UsageError: it is none, or holds a password, a key or a question.
    """
    refuse_keys("base_url", text)
    try:
        url = httpx.URL(text.strip())
        sent = url.port is None or url.port < 2**16
    except (httpx.InvalidURL, TypeError, AttributeError, ValueError) as error:
        raise UsageError(
            f"base_url {text!r} is no address: {error}; an example: http://localhost:8000/v1"
        ) from error
    if url.userinfo:
        raise UsageError(
            "base_url holds a name or password; put the key in an environment variable (api_key_env)"
        )
    if url.query or url.fragment:
        raise UsageError(
            "base_url holds a '?' or '#'; give the address alone, and put a key in an environment variable "
            "(api_key_env)"
        )
    if url.scheme not in ("http", "https") or not url.host or not sent:
        raise UsageError(f"base_url {text!r} is no http address; an example: http://localhost:8000/v1")
    return text.strip().rstrip("/")


def check_numbers(
    request_timeout: Any, retries: Any, max_in_flight: Any, requests_per_minute: Any, prices: Any
) -> None:
    """Refuse options of a client that make no sense, whatever their type.

    Raises: UsageError: names the option.
    """
    if not (is_number(request_timeout) and 0 < request_timeout <= MOST_SECONDS):
        raise UsageError(
            f"request_timeout must be a positive number of seconds, at most {MOST_SECONDS:g}; got {request_timeout!r}"
        )
    for name, value, least in (("retries", retries, 0), ("max_in_flight", max_in_flight, 1)):
        if not (isinstance(value, int) and is_number(value) and value >= least):
            raise UsageError(f"{name} at least {least} is allowed, as a whole number; got {value!r}")
    if requests_per_minute is not None and not (is_number(requests_per_minute) and requests_per_minute > 0):
        raise UsageError(f"requests_per_minute must be a positive number, got {requests_per_minute!r}")
    if prices is None:
        return
    if not isinstance(prices, Mapping) or set(prices) != {"prompt", "completion"}:
        raise UsageError(f"prices needs the keys prompt and completion (per million tokens), got {prices!r}")
    if not all(is_number(value) and value >= 0 for value in prices.values()):
        raise UsageError(f"prices must be numbers, per million tokens; got {prices!r}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = httpx.URL(url).host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
