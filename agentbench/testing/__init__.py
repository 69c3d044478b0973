"""The conformance kit for plug-ins."""

from .conformance import check_env

__all__ = ["check_env"]
