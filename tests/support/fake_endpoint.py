"""A server on a real socket for the tests of the HTTP engines: a toy model, vLLM's wire, and faults on demand.

The model's next-token logits depend on the last token and on `weights` alone, so every expected number is `logprob`.
"""

import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

VOCAB = 259  # of the byte tokenizer and of tiny tokenizers without entities


def logit(last, token, weights=0):
    """A multiple of 1/16 in [-4, 4)."""
    return ((last * 31 + token * 17 + weights * 97 + last * token) % 128 - 64) / 16


def distribution(last, temperature=1.0, weights=0):
    """Log-probs [VOCAB] at a temperature."""
    values = [logit(last, token, weights) / temperature for token in range(VOCAB)]
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


class FakeServer:
    """Serves `models` until `stop`; use as a context manager.

    Attributes:
        seen: (path, body, authorization) of every request, faulty ones included.
        faults: by path, what happens to the next requests there, in order: "die" (connection cut), "truncated" (half
            a JSON text), "slow" (six seconds late), or (status, headers, body).
        most_at_once: largest number of requests that were being answered at one time.
        weights: number of the weights; `pushes` are the (folder, version) it was sent.
    """

    def __init__(self, models=("m",), *, port=0, mode="processed", max_model_len=64, chat=None, trains=False):
        self.models, self.mode, self.max_model_len = list(models), mode, max_model_len
        self.chat = chat or (lambda messages, seed: "look")
        self.trains = trains
        self.shift = 0  # added to token ids by /tokenize
        self.max_logprobs = 20
        self.delay = 0.0
        self.seen, self.faults, self.pushes = [], {}, []
        self.weights, self.version = 0, "default"
        self.resets_succeed = True
        self._busy, self.most_at_once, self._lock = 0, 0, threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                fake.handle(self, None)

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                fake.handle(self, json.loads(self.rfile.read(length) or b"null"))

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, path):
        """Bodies of the requests to a path."""
        return [body for where, body, _ in self.seen if where == path]

    # --- answering ----------------------------------------------------------------------------------------------------

    def handle(self, request, body):
        path = request.path.partition("?")[0]
        with self._lock:
            self.seen.append((path, body, request.headers.get("Authorization")))
            fault = self.faults[path].pop(0) if self.faults.get(path) else None
            request.answered = False  # a handler serves all requests of its connection
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        try:
            self._answer(request, path, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self._answered(request)

    def _answered(self, request):
        """Count a request as answered before its last byte is out: the client may send its next one at once."""
        with self._lock:
            if not getattr(request, "answered", False):
                request.answered = True
                self._busy -= 1

    def _answer(self, request, path, body, fault):
        if self.delay:
            time.sleep(self.delay)
        if fault == "slow":
            time.sleep(6.0)
        if fault == "die":
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b'{"choices"')
            return
        if isinstance(fault, tuple):
            status, headers, answer = fault
        else:
            status, answer = self._route(path, body)
            headers = {}
        data = json.dumps(answer).encode()
        if fault == "truncated":
            data = data[: len(data) // 2]
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        self._answered(request)
        request.wfile.write(data)

    def _route(self, path, body):
        if path == "/health":
            return 200, {}
        if path == "/version":
            return 200, {"version": "0.32.0"}
        if path == "/v1/models":
            data = [{"id": m, "root": m, "max_model_len": self.max_model_len} for m in self.models]
            return 200, {"data": data}
        if path == "/tokenize":
            return 200, {"tokens": [self.shift + token for token in self.tokenizer.encode(body["prompt"])]}
        if path in ("/v1/completions", "/v1/chat/completions"):
            if body["model"] not in self.models:
                return 404, {
                    "error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}
                }
            return self._chat(body) if "messages" in body else self._complete(body)
        if self.trains:
            return self._train(path, body)
        return 404, {"detail": "Not Found"}

    def _chat(self, body):
        text = self.chat(body["messages"], body.get("seed"))
        if isinstance(text, tuple):
            return text
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 4}}

    def _complete(self, body):
        prompt, limit = body["prompt"], body["max_tokens"]
        if isinstance(prompt, str):
            choice = {"text": self.chat(prompt, body.get("seed")), "finish_reason": "stop"}
            return 200, {"choices": [choice]}
        if len(prompt) + limit > self.max_model_len:
            return 400, {"error": {"message": f"maximum context length is {self.max_model_len}", "code": 400}}
        asked = max(body.get("logprobs") or 0, body.get("prompt_logprobs") or 0)
        if asked > self.max_logprobs:
            return 400, {"error": {"message": f"{asked} logprobs exceed max_logprobs {self.max_logprobs}"}}
        temperature = body.get("temperature", 1.0)
        rng = random.Random(body.get("seed"))
        ids, logprobs, tops, last = [], [], [], prompt[-1]
        finish = "length"
        while len(ids) < limit:
            drawn_from = distribution(last, temperature or 1.0, self.weights)
            shown = distribution(last, 1.0, self.weights) if self.mode == "raw" else drawn_from
            likeliest = sorted(range(VOCAB), key=lambda token: -drawn_from[token])
            token = likeliest[0]
            if temperature:
                token = rng.choices(range(VOCAB), [math.exp(value) for value in drawn_from])[0]
            ids.append(token)
            logprobs.append(shown[token])
            tops.append({f"token_id:{t}": shown[t] for t in likeliest[: body.get("logprobs") or 0]})
            last = token
            if token in body.get("stop_token_ids", ()):
                finish = "stop"
                break
        choice = {
            "token_ids": ids,
            "finish_reason": finish,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": tops},
        }
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [None, *self._scores(prompt, body["prompt_logprobs"])]
        return 200, {
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
        }

    def _scores(self, prompt, k):
        for last, token in pairwise(prompt):
            known = distribution(last, 1.0, self.weights)
            order = sorted(range(VOCAB), key=lambda token: -known[token])
            shown = {t: {"logprob": known[t], "rank": rank} for rank, t in enumerate(order[:k], start=1)}
            shown.setdefault(token, {"logprob": known[token], "rank": order.index(token) + 1})
            yield {str(t): value for t, value in shown.items()}

    def _train(self, path, body):
        if path == "/collective_rpc":
            if "method" not in body:
                return 400, {"detail": "Missing 'method' in request body"}
            folder, version = body["args"]
            self.pushes.append((folder, version))
            self.weights = version
            return 200, {"results": [{"version": version, "weights": f"digest-{version}"}]}
        if path == "/reset_prefix_cache":
            return 200, {"success": self.resets_succeed}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return 200, {"success": True}
        return 404, {"detail": "Not Found"}
