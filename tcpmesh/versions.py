"""
The versions of tcpmesh and of what it stands on, as a bug report needs them.

Ring 0. Asks the distributions' metadata instead of importing them, where those say it.
"""

from __future__ import annotations

import platform
from importlib import metadata

import tcpmesh

_DISTRIBUTIONS = (("twisted", "Twisted"), ("pyopenssl", "pyOpenSSL"), ("cryptography", "cryptography"))


def versions() -> dict[str, str]:
    """By name; OpenSSL is the one that cryptography, and so pyOpenSSL, is linked with."""
    from cryptography.hazmat.backends.openssl.backend import backend

    return {
        "tcpmesh": tcpmesh.__version__,
        "Python": platform.python_version(),
        **{name: metadata.version(distribution) for distribution, name in _DISTRIBUTIONS},
        "OpenSSL": backend.openssl_version_text(),
    }
