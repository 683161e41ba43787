"""
``python -m tcpmesh``: the command ``tcpmesh`` where its script is not installed.

Ring 4. Imports only the command line.
"""

from __future__ import annotations

from tcpmesh.cli import main

if __name__ == "__main__":
    main()
