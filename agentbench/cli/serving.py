"""`serve`."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    purpose: Annotated[str, typer.Option("--for", help="eval, training or teacher.")] = "eval",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    top_k: Annotated[int, typer.Option(help="Most likeliest tokens a request may ask for.")] = 20,
    dtype: Annotated[
        str | None, typer.Option(help="float32 on CPU, the checkpoint's elsewhere.", show_default=False)
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Prompt plus reply, in tokens.", show_default=False)
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print-only", help="Show command and configuration, start nothing.")
    ] = False,
) -> int:
    """Serve MODEL with vLLM, set up for this project; options unknown here go to vLLM."""
    from ..engines.vllm.serve import Serving, on_cpu, serve, shown

    serving = Serving(
        model,
        purpose,  # type: ignore[arg-type]  # checked there
        host,
        port,
        top_k,
        dtype,
        max_model_len,
        on_cpu(),
        tuple(context.args),
    )
    if print_only:
        print(shown(serving) + "\n\n" + serving.usage_lines(), end="")
        return 0
    return serve(serving)
