"""`rarefy serve` as a process of its own, told to stop in the middle of a text."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import openai


def test_a_text_under_way_is_finished_at_sigterm(writer_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rarefy.cli.main", "serve", str(writer_folder), "--port", str(port), "--name", "t"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE, text=True
    )
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.05)
        stream = client.completions.create(model="t", prompt="go on", max_tokens=450, temperature=0, stream=True)
        pieces = [next(stream)]
        process.send_signal(signal.SIGTERM)
        pieces += list(stream)
        assert pieces[-1].choices[0].finish_reason in ("length", "stop")
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert re.search(r"OpenAI's interface below /v1", said)
    finally:
        process.kill()


def test_a_folder_without_a_model_is_one_line(tmp_path):
    from typer.testing import CliRunner

    from rarefy.cli.main import app

    done = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert done.exit_code == 2 and "holds no model.safetensors" in done.output
