"""torch's shortcut through an encoder layer in evaluation, closed while one of its linears is packed."""

from torch import nn

from rarefy.training.runtime.faces import is_packed

_OPEN = "activation_relu_or_gelu"  # 1 or 2 where the shortcut may be taken, 0 where not; read for nothing else


class FastPath:
    """Closes and opens the shortcut of the `nn.TransformerEncoderLayer` around a linear layer.

    The shortcut multiplies by `linear1.weight` and `linear2.weight` themselves, which are no matrices while packed.
    """

    def __init__(self, model: nn.Module) -> None:
        encoders = [module for module in model.modules() if isinstance(module, nn.TransformerEncoderLayer)]
        self._was = {id(encoder): getattr(encoder, _OPEN) for encoder in encoders}
        self._around = {id(linear): e for e in encoders for linear in (e.linear1, e.linear2)}

    def look(self, module: nn.Module) -> None:
        """To be called when a layer was packed or unpacked."""
        encoder = self._around.get(id(module))
        if encoder is not None:
            packed = is_packed(encoder.linear1) or is_packed(encoder.linear2)
            setattr(encoder, _OPEN, 0 if packed else self._was[id(encoder)])
