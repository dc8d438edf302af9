"""Floor 1: how sparse matrices are laid out in files, and the files themselves. One storage format a file.

`read(path)` gives {name: tensor or Packed} of a file or a folder; nothing in a file is ever unpickled or imported.
"""

from rarefy.core.registry import import_all
from rarefy.formats.folder import read

__all__ = ["read"]

import_all(__name__, __path__)
