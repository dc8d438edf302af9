"""Run at the start of every Python that has rarefy installed (`rarefy_transformers.pth`): sets a watch, no more.

When a program imports transformers' models, `rarefy.enable_transformers` is called, so that `AutoModel.from_pretrained`
reads sparse folders without a word of the program. RAREFY_TRANSFORMERS=0 leaves transformers as it is.
See docs/decisions/0019-transformers-watch.md.
"""

import sys

AWAITED = "transformers.modeling_utils"


class Watch:
    """Finds no module of its own; what the other finders find for AWAITED is followed by a call."""

    def find_spec(self, name, path=None, target=None):
        if name != AWAITED:
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(name, path, target)
            if found is not None:
                if found.loader is not None:
                    _follow(found.loader)
                return found
        return None


def _follow(loader):
    run = loader.exec_module

    def run_and_enable(module):
        run(module)
        _enable()

    loader.exec_module = run_and_enable


def _enable():
    """What goes wrong here must not stop a program that may have no use for rarefy."""
    import os
    import warnings

    if os.environ.get("RAREFY_TRANSFORMERS", "1") == "0":
        return
    try:
        from rarefy.recipes.hf_quantizer import enable_transformers, is_recent

        if is_recent():
            enable_transformers()
    except Exception as error:
        warnings.warn(
            f"rarefy: transformers was left as it is, sparse folders are not read: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


if not any(type(finder).__name__ == "Watch" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, Watch())
