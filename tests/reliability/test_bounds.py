"""The bounds that the fuzzer puts on readers catch readers that break them, and no others."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
READERS = """
    import json, os, pickle, sys, time, tempfile
    from pathlib import Path
    import numpy, torch
    from bounds import bounded
    from rarefy.core.errors import FileError

    folder = Path(tempfile.mkdtemp())
    path, secret = folder / "file", Path("/etc/hostname")
    path.write_bytes(bytes(1000))
    torch.zeros(2**24)  # pages that a later allocation may be given
    (folder / "named_by_a_file.py").write_text("x = 1")
    program = folder / "named_by_a_file.py"
    sys.path.append(str(folder))
    big = 4 * 2**20

    def refuses():
        raise FileError("no")

    def imports_once():
        import rarefy.formats.onnx_sparse
        import xmlrpc.client

    def waits():
        end = time.process_time() + 1.2
        while time.process_time() < end:
            pass

    readers = {
        "reads": path.read_bytes,
        "reads twice": lambda: path.read_bytes() + path.read_bytes(),
        "refuses": refuses,
        "imports once": imports_once,
        "bytes": lambda: bytearray(big),
        "numpy": lambda: numpy.empty(big, numpy.uint8),
        "torch": lambda: torch.empty(big, dtype=torch.uint8),
        "small things": lambda: [[] for _ in range(big // 100)],
        "reads what is not there": lambda: path.open("rb").read(big),
        "more than memory": lambda: torch.empty(2**40),
        "waits": waits,
        "unpickles": lambda: pickle.loads(pickle.dumps(FileError)),
        "imports": lambda: __import__("named_by_a_file"),
        "runs": lambda: exec(compile(program.read_text(), str(program), "exec")),
        "commands": lambda: os.system("true"),
        "elsewhere": lambda: secret.read_bytes(),
    }
    found = {}
    for name, reader in readers.items():
        try:
            bounded(reader, 1000)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_each_impostor_is_caught(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(FUZZ))
    from counting import built, environment

    script = tmp_path / "readers.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(FUZZ)!r})\n" + textwrap.dedent(READERS))
    done = subprocess.run(
        [sys.executable, script], env=dict(environment(built(tmp_path))), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for memory in ("bytes", "numpy", "torch", "small things", "reads what is not there"):
        assert "bytes at once for 1000 bytes" in found.pop(memory, ""), memory
    assert "alloc" in found.pop("more than memory")
    assert "took 1." in found.pop("waits")
    for event, said in (
        ("unpickles", "pickle.find_class"),
        ("imports", "import of 'named_by_a_file'"),
        ("runs", "compile of"),
        ("commands", "os.system"),
        ("elsewhere", "open"),
    ):
        assert f'besides reading: ["{said}' in found.pop(event, "").replace("['", '["'), event
    assert not found
