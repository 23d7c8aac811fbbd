"""Channels: the time-series stores, and the name shared with the installed Django Channels.

Python looks for a submodule in this folder first and in the library's folder second, so that
`channels.models` is ours and `channels.generic` is the library's. docs/decisions/0001 tells why.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

# The library's own package says this in the `__init__` that ours stands before.
DEFAULT_CHANNEL_LAYER = "default"
