"""What `agentbench eval` does with an endpoint that answers oddly, kind by kind: the table of results/endpoints.

    python benchmarks/endpoints.py results/endpoints/table.md

Needs no model and no network: the endpoint is a server on this machine whose behaviour goes by the model's name.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from agentbench import cli
from agentbench.engines import http

PANEL, EPISODES, PROBES = "corridor/test@1", 4, 2
GROWING = "agentbench.prompts:corridor/transcript"


def said(content: Any, finish: Any = "stop", usage: Any = None, **message: Any) -> tuple[int, Any]:
    """An answer with one choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }
    return 200, {"choices": [choice], "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5}}


def error(status: int, message: str, **more: Any) -> tuple[int, Any]:
    """An answer that is an error, in the shape of OpenAI."""
    return status, {"error": {"message": message, **more}}


_SSE = 'data: {"choices":[{"delta":{"content":"%s"}}]}\n\ndata: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
_HALF = b'{"choices":[{"message":{"content":"<think>\\ud83d</think><action>go left</action>"},"finish_reason":"stop"}]}'
_TOO_LONG = {
    "OpenAI": error(
        400, "This model's maximum context length is 512 tokens.", code="context_length_exceeded"
    ),
    "llama.cpp": error(400, "the request exceeds the available context size. try increasing"),
    "llama.cpp, 500": error(
        500, "the request exceeds the available context size", type="exceed_context_size_error"
    ),
    "llama.cpp, in a 200": error(200, "the request exceeds the available context size", code=400),
    "SGLang": (
        400,
        {"object": "error", "message": "The input (50) is longer than the model's context length (40)."},
    ),
    "TGI": (
        422,
        {
            "error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000",
            "error_type": "validation",
        },
    ),
    "vLLM": error(400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    "vLLM, older": error(400, "max_tokens must be at least 1, got -45."),
    "Anthropic": error(400, "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000"),
    "Gemini": (
        400,
        [error(400, "The input token count (12) exceeds the maximum number of tokens allowed (10).")[1]],
    ),
    "LM Studio": (400, {"error": "the model is loaded with context length of only 4096 tokens"}),
    "Mistral": (
        400,
        {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"},
    ),
    "DeepSeek": error(
        400, "This model's maximum context length is 65536 tokens. However, you requested 70000"
    ),
    "Groq": error(413, "Request too large for model `x`", code="rate_limit_exceeded"),
    "words of nobody known": error(400, "Messages have 9000 tokens, which exceeds the max limit of 8192."),
    "in Chinese": error(400, "输入内容过长"),
}


def answer(kind: str, body: dict[str, Any], count: int, command: str) -> tuple[int, Any]:
    """What the endpoint says; `count` is the number of the request."""
    act = f"<action>{command}</action>"
    full = f"<think>hm</think>{act}"
    probe = body["messages"][-1]["content"] == "Say yes."
    always: dict[str, Any] = {
        "usual": said(full),
        "thought in reasoning_content": said(act, reasoning_content="hm"),
        "thought in reasoning": said("\n\n" + act, reasoning="hm"),
        "thought in a part": said([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": act}]),
        "all thought, then cut": said(None, "length", reasoning_content="hm " * 50),
        "reply begins inside the thought": said(f"hm\n</think>\n\n{act}"),
        "content in parts": said([{"type": "text", "text": full}]),
        "no finish_reason": said(full, None),
        **{f"finish_reason {word}": said(full, word) for word in ("eos_token", "end_turn", "STOP", "weird")},
        "finish_reason maxTokens": said("<think>hm", "maxTokens"),
        "finish_reason max_tokens": said("<think>hm", "max_tokens"),
        "counts that are none": said(full, usage={"prompt_tokens": "n/a", "completion_tokens": 1e300}),
        "a stream": (200, (_SSE % full).encode()),
        "a stream with comments": (200, (": keep-alive\n\nevent: message\n" + _SSE % full).encode()),
        "only streams": (200, (_SSE % full).encode())
        if body.get("stream")
        else error(400, "Stream must be set to true"),
        "thought in a field of another name": said(act, chain_of_thought="hm"),
        "wrapped in a result": (200, {"success": True, "result": said(full)[1]}),
        "a mark before the JSON": (200, b"\xef\xbb\xbf" + json.dumps(said(full)[1]).encode()),
        "comments before the JSON": (200, b": PROCESSING\n\n" + json.dumps(said(full)[1]).encode()),
        "half a character": (200, _HALF),
        "HTML from the start": (200, b"<html>login</html>"),
        "no choices from the start": (200, {"choices": []}),
        "401 in a 200": error(200, "No auth credentials found", code=401),
        "redirect": (307, b""),
        "unknown model": error(404, "The model `x` does not exist."),
        "refuses seed": error(400, "Unsupported parameter: 'seed'") if "seed" in body else said(full),
        "refuses a temperature": said(full)
        if body.get("temperature", 1) == 1
        else error(400, "Unsupported value: 'temperature'. Only the default (1) value is supported."),
    }
    if kind in always:
        return always[kind]  # type: ignore[no-any-return]
    if probe:
        return said("yes")
    if kind in (f"too long, {server}" for server in _TOO_LONG) and (count - PROBES) % 2:
        return said(full)  # one episode at a time: its first turn fits, its second does not
    if kind == "one request hangs":
        time.sleep(120 if count == 5 else 0)
        return said(full)
    if kind == "dies after 20 requests":
        return said(full) if count <= 20 else error(401, "key revoked")
    if kind == "empty replies, strict about them":
        empty = any(item["role"] == "assistant" and not item["content"] for item in body["messages"])
        return error(400, "Assistant message must contain 'content'!") if empty else said(None, "length")
    later: dict[str, Any] = {
        **{f"too long, {server}": found for server, found in _TOO_LONG.items()},
        "too long from the first prompt": _TOO_LONG["OpenAI"],
        "no choices": (200, {"choices": []}),
        "no message": (200, {"choices": [{"message": None, "finish_reason": "stop"}]}),
        "no content": said(None),
        "only a tool call": said(
            None, "tool_calls", tool_calls=[{"function": {"name": "act", "arguments": "{}"}}]
        ),
        "a stream that breaks off": (200, (_SSE % full).partition("\n\n")[0].encode()),
        "an error without its word": (200, {"status": "error", "message": "fell over"}),
        "finish_reason contentFilter": said("x", "contentFilter"),
        "HTML": (200, b"<html>login</html>"),
        "502 in a 200": error(200, "upstream provider gave an error", code=502),
        "an error in the choice": (
            200,
            {"choices": [{"finish_reason": "error", "error": {"message": "fell over"}}]},
        ),
        "content filter": error(400, "The response was filtered", code="content_filter"),
        "finish_reason content_filter": said("x", "content_filter"),
    }
    return later[kind]  # type: ignore[no-any-return]


KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("usual", "thought in reasoning_content", "thought in reasoning", "thought in a part"),
            *(
                "all thought, then cut",
                "reply begins inside the thought",
                "content in parts",
                "no finish_reason",
            ),
            *(
                "finish_reason eos_token",
                "finish_reason end_turn",
                "finish_reason STOP",
                "finish_reason weird",
            ),
            *(
                "finish_reason max_tokens",
                "counts that are none",
                "a stream",
                "half a character",
                "only a tool call",
            ),
            *(
                "finish_reason maxTokens",
                "thought in a field of another name",
                "wrapped in a result",
                "a mark before the JSON",
                "comments before the JSON",
                "a stream with comments",
            ),
        ),
        (),
    ),
    "empty replies, strict about them": ("--prompt", GROWING),
    **{f"too long, {server}": ("--concurrency", "1") for server in _TOO_LONG},
    "too long from the first prompt": (),
    **dict.fromkeys(
        (
            *("no choices", "no message", "no content", "HTML", "502 in a 200", "an error in the choice"),
            *("a stream that breaks off", "an error without its word", "finish_reason contentFilter"),
            *("only streams",),
            *(
                "content filter",
                "finish_reason content_filter",
                "HTML from the start",
                "no choices from the start",
            ),
            *("401 in a 200", "redirect", "unknown model", "refuses seed", "refuses a temperature"),
        ),
        (),
    ),
    "one request hangs": ("--episode-seconds", "15"),
    "dies after 20 requests": ("--limit", "40", "--give-up-after", "4"),
}
"""Kind -> further options of the command."""


class Handler(BaseHTTPRequestHandler):
    """Answers by the model's name."""

    protocol_version = "HTTP/1.1"
    counts: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a chat request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = body["model"]
        self.counts[kind] += 1
        found = re.search(r"Your commands: (.*?)\.\n", body["messages"][-1]["content"])
        commands = found[1].split(", ") if found else ["go left"]
        status, value = answer(kind, body, self.counts[kind], commands[self.counts[kind] % len(commands)])
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        with contextlib.suppress(OSError):  # whoever asked may have given up
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


def play(kind: str, more: tuple[str, ...], url: str, folder: str) -> str:
    """One row of the table."""
    words = [
        "eval",
        "--panel",
        PANEL,
        "--limit",
        str(EPISODES),
        "--policy",
        "model",
        "--engine",
        "openai",
        "--json",
    ]
    words += ["--model", kind, "--engine-option", f"base_url={url}", "--engine-option", "retries=1"]
    words += ["--output", f"{folder}/{len(list(Path(folder).iterdir()))}", *more]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(words)
    said = err.getvalue().strip().replace(url, "URL").removeprefix("agentbench: ").replace("|", "\\|")
    if not out.getvalue():
        return f"| {kind} | {code} | | | | | {said} |"
    found = json.loads(out.getvalue())
    counts = (found["ends"], found["errors"], found["invalid"])
    shown = [", ".join(f"{name} {count}" for name, count in sorted(item.items())) or "–" for item in counts]
    cut = f"{found['cut']} of {found['turns_total']}"
    return f"| {kind} | {code} | {shown[0]} | {shown[1]} | {shown[2]} | {cut} | {said} |"


def main() -> None:
    """Play every kind and write the table."""
    http._FIRST_WAIT = 0.05
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections that were given up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    lines = [
        "| kind | exit | ends | errors | parse failures | replies cut | message |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines += [play(kind, more, url, folder) for kind, more in KINDS.items()]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
