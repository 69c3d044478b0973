import json

import pytest

from agentbench.engines.answers import judge, parse


def said(message, **more):
    return {"error": {"message": message, **more}}


_ANTHROPIC = (
    "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000, decrease input length"
)
_GEMINI = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
_LM_STUDIO = (
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with ..."
)
_MISTRAL = (
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"
)
_SGLANG = "Requested token count exceeds the model's maximum context length of 4096 tokens."
_TGI = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000"
_VLLM = "The decoder prompt (length 5000) is longer than the maximum model length of 4096."
_VLLM_LIMIT = (
    "'max_tokens' is too large: 512. This model's maximum context length is 4096 tokens and your request has"
)

LONG = [  # server, status, body: all of them say that the conversation is too long
    ("OpenAI, code", 400, said("too long", type="invalid_request_error", code="context_length_exceeded")),
    ("OpenAI", 400, said("This model's maximum context length is 4096 tokens. However, you requested 5000")),
    (
        "vLLM",
        400,
        {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400},
    ),
    ("vLLM, older", 400, said("max_tokens must be at least 1, got -45.", type="BadRequestError")),
    ("vLLM, max_tokens", 400, said(_VLLM_LIMIT)),
    ("vLLM, prompt", 400, said(_VLLM)),
    ("SGLang", 400, {"object": "error", "message": _SGLANG}),
    (
        "SGLang, input",
        400,
        {"message": "The input (5000 tokens) is longer than the model's context length (4096)."},
    ),
    ("llama.cpp", 400, said("the request exceeds the available context size. try increasing", code=400)),
    (
        "llama.cpp, numbers",
        400,
        said("request (5000 tokens) exceeds the available context size (4096 tokens)"),
    ),
    ("llama.cpp, type", 500, said("no", code=500, type="exceed_context_size_error")),
    ("llama.cpp, shift", 500, said("context shift is disabled")),
    ("llama.cpp behind a proxy", 200, said("the request exceeds the available context size", code=400)),
    ("TGI", 422, {"error": _TGI, "error_type": "validation"}),
    (
        "TGI, input",
        422,
        {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"},
    ),
    ("Anthropic, limit", 400, {"type": "error", **said(_ANTHROPIC)}),
    ("Anthropic", 400, {"type": "error", **said("prompt is too long: 2 > 1", type="invalid_request_error")}),
    (
        "OpenRouter",
        200,
        said("Provider returned error", code=400, metadata={"raw": "maximum context length is 8"}),
    ),
    ("Gemini", 400, [said(_GEMINI, code=400, status="INVALID_ARGUMENT")]),
    ("Mistral", 400, {"message": _MISTRAL, "type": "invalid_request_prompt", "code": "3051"}),
    ("LM Studio", 400, {"error": _LM_STUDIO}),
    (
        "DeepSeek",
        400,
        said("This model's maximum context length is 65536 tokens.", code="invalid_request_error"),
    ),
    ("Cohere", 400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    ("Bedrock", 400, {"message": "Input is too long for requested model."}),
    (
        "xAI",
        400,
        {"code": "invalid", "error": "This model's maximum prompt length is 131072 but the request has 2"},
    ),
    (
        "DashScope",
        400,
        said("<400> InternalError.Algo: Range of input length should be [1, 30720]", code="x"),
    ),
    ("Moonshot", 400, said("Invalid request: Your request exceeded model token limit: 8192")),
    ("Zhipu", 400, said("Prompt exceeds max length", code="1261")),
    ("Zhipu, Chinese", 400, said("Prompt 超长", code="1261")),
    (
        "Vertex",
        400,
        said("the input token count is 1200000 but the model only supports up to 1048576.", code=400),
    ),
    ("GitHub Models", 413, said("Request body too large for x. Max size: 8000 tokens.")),
    ("GitHub Models, code", 413, said("too large", code="tokens_limit_reached")),
    ("LiteLLM", 400, said("litellm.ContextWindowExceededError: too big", code="400")),
    ("TabbyAPI", 422, {"detail": "Prompt length 5000 is greater than max_seq_len 4096"}),
    (
        "SiliconFlow",
        400,
        {"code": 20015, "message": "prompt_tokens (5000) must be less than max_seq_len (4096)."},
    ),
    ("TensorRT-LLM", 400, said("The sum of prompt length (5000) should not exceed max_num_tokens (4096)")),
    ("vLLM, nothing left", 400, said("max_tokens must be at least 1, got 0.")),
    (
        "watsonx",
        400,
        {"errors": [{"message": "the number of input tokens 5 cannot exceed the total tokens limit 4"}]},
    ),
    (
        "Cloudflare",
        200,
        {"success": False, "errors": [{"message": "tokens (5) exceeded this model context window limit"}]},
    ),
    (
        "MiniMax",
        200,
        {"base_resp": {"status_code": 2013, "status_msg": "context window exceeds limit (2013)"}},
    ),
    ("Baidu", 200, {"error_code": 336007, "error_msg": "the max input characters is 20000"}),
    ("LMDeploy", 400, {"message": "The token number of the prompt is too long: 5000 > 4096"}),
    ("exo", 500, {"detail": "prompt too long"}),
    ("Groq", 413, said("Request too large for model `x`", type="tokens", code="rate_limit_exceeded")),
]


@pytest.mark.parametrize(("status", "body"), [item[1:] for item in LONG], ids=[item[0] for item in LONG])
def test_every_server_has_its_words_for_a_full_context(status, body):
    assert judge(status, body).kind == "context_full"


OTHERS = [
    (200, {"choices": [{"message": {"content": "the context length exceeds my patience"}}]}, "usable", 200),
    (200, {"choices": [], "error": None}, "usable", 200),
    (200, {"error": {"code": 502, "message": "upstream provider gave an error"}}, "server_error", 502),
    (200, {"error": {"message": "overloaded"}}, "server_error", 500),
    (200, {"error": "out of memory"}, "server_error", 500),
    (200, {"error": {"code": 429, "message": "slow down"}}, "rate_limit", 429),
    (200, {"error": {"code": "429", "message": "slow down"}}, "rate_limit", 429),
    (200, {"error": {"type": "rate_limit_error", "message": "slow down"}}, "rate_limit", 429),
    (200, {"error": {"code": 401, "message": "No auth credentials found"}}, "refused", 401),
    (200, {"error": {"type": "authentication_error", "message": "no"}}, "refused", 401),
    (200, {"error": {"code": "model_not_found", "message": "no"}}, "refused", 404),
    (200, {"error": {"code": 402, "message": "Insufficient credits"}}, "refused", 402),
    (200, {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, "refused", 400),
    (
        200,
        {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "x"}}]},
        "server_error",
        502,
    ),
    (200, {"choices": [{"finish_reason": "error", "message": {"content": ""}}]}, "server_error", 502),
    (200, {"choices": [{"error": {"code": 403, "message": "flagged"}}]}, "refused", 403),
    (200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "refused", 401),
    (200, {"base_resp": {"status_code": 0}, "choices": [{"message": {"content": "x"}}]}, "usable", 200),
    (200, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, "refused", 401),
    (200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}, "rate_limit", 429),
    (200, {"code": 20012, "message": "Model does not exist", "data": None}, "refused", 404),
    (200, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, "refused", 401),
    (200, {"code": "Throttling.RateQuota", "message": "too fast"}, "rate_limit", 429),
    (200, {"detail": "Not Found"}, "refused", 404),
    (200, {"success": False, "message": "model loading"}, "server_error", 500),
    (
        200,
        {"error": {"code": None, "message": ""}, "choices": [{"message": {"content": "x"}}]},
        "usable",
        200,
    ),
    (200, {"code": 0, "message": "ok", "choices": [{"message": {"content": "x"}}]}, "usable", 200),
    (400, {"__type": "ThrottlingException", "message": "Too many tokens, please wait."}, "rate_limit", 429),
    (500, {"error": {"message": "CUDA out of memory while growing context size"}}, "server_error", 500),
    (400, {"error": {"message": "Unrecognized request argument supplied: context_window"}}, "refused", 400),
    (409, None, "server_error", 409),
    (499, None, "server_error", 499),
    (429, {"error": {"message": "no money", "code": "insufficient_quota"}}, "refused", 429),
    (429, {"error": {"message": "You exceeded your current quota, check your billing"}}, "refused", 429),
    (429, {"error": {"message": "tokens per min: the context length ..."}}, "rate_limit", 429),
    (401, {"error": {"message": "Incorrect key for the context window"}}, "refused", 401),
    (400, {"error": {"message": "unknown field top_k"}}, "refused", 400),
    (404, None, "refused", 404),
    (413, None, "refused", 413),
    (408, None, "server_error", 408),
    (503, None, "server_error", 503),
    (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, "server_error", 529),
    (307, None, "refused", 307),
]


OTHERS += [
    (429, said("余额不足或无可用资源包,请充值。", code="1113"), "refused", 429),
    (429, said("Your credit balance is too low to access the API"), "refused", 429),
    (413, said("Request exceeds the maximum size", type="request_too_large"), "context_full", 413),
    (200, said("no", code="data_inspection_failed"), "refused", 400),
    (200, {"message": "Invalid API key"}, "refused", 401),
    (200, {"ok": False, "error": "invalid_auth"}, "refused", 401),
    (200, {"status": "error", "message": "boom"}, "server_error", 500),
    (200, {"status": 429, "message": "too fast"}, "rate_limit", 429),
    (200, said("slow", code=429.0), "rate_limit", 429),
    (200, {"status": "ok", "message": "weights loaded"}, "usable", 200),
    (200, {"status": "completed", "choices": [{"text": "a"}]}, "usable", 200),
]


@pytest.mark.parametrize(("status", "body", "kind", "means"), OTHERS)
def test_one_function_decides_about_status_and_body(status, body, kind, means):
    found = judge(status, body)
    assert (found.kind, found.status) == (kind, means)


@pytest.mark.parametrize(
    "message",
    [
        "The number of tokens in the prompt (9000) exceeds the model limit of 8192",
        "The length of your prompt (9000) exceeds the model's max input limit: (8192).",
        "Total tokens 140000 exceed the max_total_tokens",
        "The total length of the prompt and completion exceeds the model's capacity",
        "The sequence length of 9000 exceeds the maximum of 8192",
        "Token limit exceeded for this model: 9000 > 8192",
        "tokens in request more than max tokens allowed 8192",
        "Messages have 9000 tokens, which exceeds the max limit of 8192 tokens.",
        "promptTokens exceeds maxInputTokens",
        "The provided prompt is 9000 tokens long, but the maximum supported sequence length is just 8192!",
        "input is too large to process. increase the physical batch size",
        "提示词过长",
        "输入内容过长，请缩短后重试",
        "トークン数が上限を超えています",
    ],
)
def test_a_server_that_nobody_knows_says_that_there_is_too_much_of_it(message):
    assert judge(400, {"error": {"message": message}}).kind == "context_full"
    assert judge(500, {"error": message}).kind == "context_full"
    assert judge(429, {"error": {"message": message}}).kind == "rate_limit"


@pytest.mark.parametrize(
    "message",
    [
        "Daily token limit exceeded",
        "You exceeded the number of tokens per minute of your plan",
        "Your credit balance is too low; more than 9000 tokens are owed",
        "too many stop sequences in the request: 5, at most 4",
        "the input holds more than 5 images",
        "the message's tool calls exceed 128 functions",
        "the access token has expired over 3 days ago",
        "temperature exceeds the maximum of 2",
    ],
)
def test_too_much_of_something_else_is_no_full_context(message):
    assert judge(400, {"error": {"message": message}}).kind == "refused"


def test_the_servers_words_are_kept():
    body = {"error": {"code": 502, "message": "upstream provider gave an error"}}
    assert judge(200, body).message == "upstream provider gave an error"
    assert judge(422, {"detail": [{"loc": ["body"], "msg": "field required"}]}).message == "field required"
    forbidden = {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
    assert judge(422, forbidden).message == "seed: Extra inputs are not permitted"
    assert (
        judge(400, {"error": {"message": "bad request", "param": "seed"}}).message
        == "bad request (parameter 'seed')"
    )
    assert judge(400, {"error": {"message": "no 'seed' here", "param": "seed"}}).message == "no 'seed' here"
    assert judge(502, None, "<h1>Bad gateway</h1>").message == "<h1>Bad gateway</h1>"


def test_words_of_another_server_can_be_added():
    body = {"error": {"message": "zu lang fuer mich"}}
    assert judge(400, body).kind == "refused"
    assert judge(400, body, context_words=["zu lang"]).kind == "context_full"


def test_bodies_are_read_in_every_shape():
    assert parse(b'{"a": "\\ud83d x \\ud83d\\ude00"}') == {"a": "\ufffd x \U0001f600"}
    assert parse(b'{"a": "\xff"}') == {"a": "\ufffd"}
    assert parse(b"  ") is None
    for broken in (b'{"a": ', b"<html>", b"[" * 100_000, b"data: {"):
        with pytest.raises(ValueError, match=r".+"):
            parse(broken)


def test_a_stream_that_nobody_asked_for_is_joined():
    pieces = [
        {"choices": [{"delta": {"role": "assistant", "content": "go "}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "left"}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]
    raw = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    assert parse(raw.encode()) == {
        "choices": [{"message": {"role": "assistant", "content": "go left"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


def stream(*pieces, end="data: [DONE]\n\n"):
    return ("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + end).encode()


def piece(finish=None, index=0, **delta):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


_PARTS = [[{"type": "text", "text": "go "}], [{"type": "text", "text": "left"}]]


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b": keep-alive\n\n" + stream(piece(content="go "), piece("stop", content="left")), "go left"),
        (b"event: message\nid: 1\n" + stream(piece(content="go "), piece("stop", content="left")), "go left"),
        (stream(piece(content=_PARTS[0]), piece("stop", content=_PARTS[1])), _PARTS[0] + _PARTS[1]),
        (stream(piece(content="go "), piece(index=1, content="x"), piece("stop", content="left")), "go left"),
        (
            stream({"choices": [{"text": "go "}]}, {"choices": [{"text": "left", "finish_reason": "stop"}]}),
            "go left",
        ),
        (stream({"choices": [{"message": {"content": "go left"}, "finish_reason": "stop"}]}), "go left"),
        (stream(piece(content="go left"), {"choices": [], "usage": {"prompt_tokens": 1}}), "go left"),
        (b": PROCESSING\n\n: PROCESSING\n\n" + json.dumps({"choices": [piece(content="a")]}).encode(), None),
        (b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode(), None),
        (json.dumps({"a": 1}).encode("utf-16"), None),
    ],
)
def test_bodies_with_comments_marks_and_pieces_of_every_form_are_read(raw, content):
    found = parse(raw)
    if content is not None:
        assert found["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize(
    "raw",
    [
        stream(piece(content="<action>go le"), end=""),
        stream(piece(content="a"), end='data: {"choices": [{"de'),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(raw):
    with pytest.raises(ValueError, match=r"breaks off|Unterminated"):
        parse(raw)
