"""Floor 5: activation sparsity: which inputs and neurons a token needs."""

from rarefy.core.registry import import_all

import_all(__name__, __path__)
