"""What an installed rarefy does in programs that import transformers and never name rarefy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import rarefy
from rarefy.recipes.store import save
from transformers_tiny import tiny

pytest.importorskip("transformers", "5.0")
SOURCES = Path(rarefy.__file__).parents[1]
START = "import site, sys; site.addsitedir(sys.argv[1]); "
READ = (
    "from transformers import AutoModel; m = AutoModel.from_pretrained(sys.argv[2]); "
    "print(sum(int((p == 0).sum()) for p in m.encoder.parameters()))"
)


def program(text: str, *arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run as in an environment where rarefy is installed: its .pth is followed."""
    kept = {name: value for name, value in os.environ.items() if name != "RAREFY_TRANSFORMERS"}
    return subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", START + text, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=kept | environment,
    )


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.encoder.parameters())


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> tuple[Path, nn.Module]:
    folder, model = tmp_path_factory.mktemp("bert"), tiny("Bert")
    rarefy.prune(model, "magnitude", sparsity=0.7, measure=False)
    assert save(model, folder).pruned
    return folder, model


def test_a_program_that_never_names_rarefy_reads_a_sparse_folder(bert) -> None:
    folder, model = bert
    done = program(READ, SOURCES, folder)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == zeros(model) > 0


def test_it_can_be_switched_off(bert) -> None:
    done = program(READ, SOURCES, bert[0], RAREFY_TRANSFORMERS="0")
    assert done.returncode != 0 and "compressed-tensors" in done.stderr


def test_nothing_is_imported_before_transformers_is() -> None:
    said = (
        "print(sorted({'torch', 'rarefy', 'transformers'} & (set(sys.modules) - before)), "
        "[type(f).__module__ for f in sys.meta_path].count('_rarefy_transformers'))"
    )
    text = f"import sys; before = set(sys.modules); import site; site.addsitedir(sys.argv[1]); {said}"
    done = subprocess.run([sys.executable, "-c", text, str(SOURCES)], capture_output=True, text=True, check=True)
    assert done.stdout.split("] ")[0] == "[" and int(done.stdout.split()[-1]) == 1


def test_a_rarefy_that_fails_leaves_transformers_usable() -> None:
    """Another release's files, half an uninstall: a warning, and transformers as it was."""
    name = "rarefy.recipes.hf_quantizer"
    text = f"sys.modules['{name}'] = None; import transformers; print(transformers.BertModel.__name__)"
    done = program(text, SOURCES)
    assert done.returncode == 0 and done.stdout == "BertModel\n"
    assert name in done.stderr and "left as it is" in done.stderr
