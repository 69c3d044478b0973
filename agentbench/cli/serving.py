"""`serve MODEL` and `serve retriever`."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

from .output import key_values


class _ModelByDefault(TyperGroup):
    """Takes whatever is no subcommand for a model, as `serve MODEL` has always read."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["model", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        cls=_ModelByDefault,
        help="Serve a model with vLLM (`serve MODEL`, see `serve model --help`) or a retriever (`serve retriever`).",
    )
    group.command("model", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
    group.command("retriever")(retriever)
    app.add_typer(group, name="serve")


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


def retriever(
    corpus: Annotated[str, typer.Option(help="JSONL of passages: id, and contents or title and text.")],
    kind: Annotated[str, typer.Option(help="bm25 or dense.")] = "bm25",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="key=value for the retriever, such as k1=1.2 or encoder=FOLDER; repeatable."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    top_k: Annotated[int, typer.Option(help="Passages for requests that do not say how many.")] = 3,
) -> int:
    """Serve passages to trainers and agents: POST /retrieve as Search-R1 and verl-agent ask it, GET /health."""
    from ..errors import UsageError
    from ..retrieval.open import open_gathering
    from ..retrieval.server import serve_retriever

    if kind == "client":
        raise UsageError("--kind client asks another server, and is not served; allowed: bm25, dense")
    given = key_values(settings or (), "--option")
    return serve_retriever(
        lambda: open_gathering(kind, corpus=corpus, **given), host=host, port=port, top_k=top_k, report=_say
    )


def _say(line: str) -> None:
    print(line, flush=True)
