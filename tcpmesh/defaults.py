"""
Where the configuration is looked for when nobody says, the same for twistd and for every command.

Ring 0. Imports nothing of tcpmesh.
"""

from __future__ import annotations

CONFIGURATION_FILE = "tcpmesh.yaml"  # in the current directory
CONFIGURATION_VARIABLE = "TCPMESH_CONFIG"  # of the environment; wins over the former, loses to --config
