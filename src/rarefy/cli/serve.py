"""`rarefy serve`."""

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def serve(
    out: Annotated[
        Path, typer.Argument(help="A folder that `rarefy compress` wrote, or any local Hugging Face folder.")
    ],
    port: Annotated[int, typer.Option(help="To listen on.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only if you say so.")
    ] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Of the model, for clients.", show_default="the folder's")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the model's calls.", show_default="torch's own")] = None,
    max_batch: Annotated[int, typer.Option(help="Texts that share a call of an encoder.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds that a text may wait for others.")] = 2.0,
    max_active: Annotated[int, typer.Option(help="Texts generated side by side.")] = 8,
    max_queue: Annotated[int, typer.Option(help="Texts that may wait for the model; beyond it, status 429.")] = 1024,
    max_body: Annotated[int, typer.Option(help="Bytes of one request.")] = 2**20,
    max_inputs: Annotated[int, typer.Option(help="Texts in one request.")] = 256,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one text that is given.", show_default="what the model takes")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens generated for one text.")] = 1024,
    timeout: Annotated[float, typer.Option(help="Seconds for a request.")] = 120.0,
    client_timeout: Annotated[
        float, typer.Option(help="Seconds for a client to send, or to read, what is due.")
    ] = 20.0,
    weights: Annotated[str, typer.Option(help="Stored type: fp32, bf16, int8 or int4.")] = "fp32",
    activations: Annotated[str, typer.Option(help="Type of the inputs of layers: fp32, bf16 or int8.")] = "fp32",
    dense: Annotated[bool, typer.Option("--dense", help="Run it as torch does, for comparison.")] = False,
) -> None:
    """Serve a model over HTTP in the format of OpenAI's interface: embeddings, or completions and chats.

    Examples:

      rarefy serve sparse-bert --port 8000

      rarefy serve sparse-llama --weights int8 --max-new-tokens 256
    """
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.core.errors import ModelError

    try:
        from rarefy.serving.limits import Limits
        from rarefy.serving.model import How
        from rarefy.serving.run import serve as run
    except ImportError as error:
        raise ModelError(f"serve: needs {error.name}; pip install 'rarefy[serve]'") from None
    quiet_libraries()
    limits = Limits(
        body_bytes=max_body,
        inputs=max_inputs,
        input_tokens=max_tokens,
        new_tokens=max_new_tokens,
        queue=max_queue,
        batch=max_batch,
        wait_ms=max_wait_ms,
        active=max_active,
        request_s=timeout,
        client_s=client_timeout,
    )
    run(out, name or out.resolve().name, host, port, limits, How(dense, weights, activations), threads)
