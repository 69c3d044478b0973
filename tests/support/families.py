"""Chat templates of model families in their published form (without tools), and small tokenizers to go with them.

The letters of the templates matter: blanks before an end token, tokens that open the next message, what a generation
prompt already says.
"""

from dataclasses import dataclass

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN25 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' and message.content is string and not "
    "(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}"
    "{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message.content %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set reasoning_content = '' %}"
    "{%- if message.reasoning_content is string %}{%- set reasoning_content = message.reasoning_content %}{%- else %}"
    "{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index %}"
    "{%- if loop.last or (not loop.last and reasoning_content) %}"
    "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + "
    "content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
QWEN3_THINKING = QWEN3.replace(
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
    "{{- '<think>\\n' }}",
)
R1_DISTILL = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}"
    "{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA31 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{{- 'Cutting Knowledge Date: December 2023\\n' }}"
    "{{- 'Today Date: ' + date_string + '\\n\\n' }}{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ "
    "message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GRANITE = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}"
    "{%- set system_message = \"Knowledge Cutoff Date: April 2024.\\nToday's Date: \" + strftime_now('%B %d, %Y') + "
    '".\\nYou are Granite, developed by IBM." %}{%- set loop_messages = messages %}{%- endif %}'
    "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}"
    "{%- for message in loop_messages %}"
    "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}"
    "{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{{- '<|end_of_role|>' }}"
    "{%- endif %}{%- endfor %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + "
    "'<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for item in messages %}{% if item['role'] == 'system' %}<|system|>\n{{ item['content'] }}"
    "{% elif item['role'] == 'user' %}<|user|>\n{{ item['content'] }}"
    "{% elif item['role'] == 'assistant' %}<|assistant|>\n{{ item['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_NEMO = (  # a system message stands before the last user message
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}"
    "{% for message in loop_messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST]' }}{% if loop.last and system_message is defined %}{{ system_message + '\\n\\n' }}{% endif %}"
    "{{ message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK31 = R1_DISTILL.replace(
    "{{'<｜Assistant｜><think>\\n'}}", "{{'<｜Assistant｜>' + ('<think>' if thinking else '</think>')}}"
)
SEED = (
    "{% for message in messages %}{{ bos_token + message.role + '\\n' + message.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant\\n<seed:think>' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|user|>\\n' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% else %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)
PLAIN = (  # no token of its own: the tokenizer's end token must do
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, its tokenizer's end token (often not the one that ends a turn), and what is right for it."""

    template: str
    eos: str
    end: str
    bos: str | None = None
    specials: tuple[str, ...] = ()
    added: tuple[str, ...] = ()  # single tokens that are not special
    opened: str = ""
    system: bool | str = True  # "first": in the first message only, so not in a conversation that grows
    dated: bool = False
    after: str = ""  # between two messages of a conversation: end token, {next message}, start of the reply


_QWEN = ("<|im_start|>", "<|endoftext|>")
_THINK = ("<think>", "</think>")
_CHATML_NEXT = "<|im_end|>\n<|im_start|>user\nSEEN<|im_end|>\n<|im_start|>assistant\n"

FAMILIES = {
    "chatml": Family(
        CHATML, "<|endoftext|>", "<|im_end|>", specials=("<|im_start|>", "<|im_end|>"), after=_CHATML_NEXT
    ),
    "chatml, tokens not special": Family(
        CHATML, "<|endoftext|>", "<|im_end|>", added=("<|im_start|>", "<|im_end|>"), after=_CHATML_NEXT
    ),
    "qwen2.5": Family(QWEN25, "<|im_end|>", "<|im_end|>", specials=_QWEN, after=_CHATML_NEXT),
    "qwen3": Family(
        QWEN3,
        "<|im_end|>",
        "<|im_end|>",
        specials=_QWEN,
        added=_THINK,
        opened="<think>\n\n</think>\n\n",
        after=_CHATML_NEXT + "<think>\n\n</think>\n\n",
    ),
    "qwen3 thinking": Family(
        QWEN3_THINKING,
        "<|im_end|>",
        "<|im_end|>",
        specials=_QWEN,
        added=_THINK,
        opened="<think>\n",
        after=_CHATML_NEXT + "<think>\n",
    ),
    "r1 distill": Family(
        R1_DISTILL,
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        added=("<｜User｜>", "<｜Assistant｜>", *_THINK),
        opened="<think>\n",
        after="<｜end▁of▁sentence｜><｜User｜>SEEN<｜Assistant｜><think>\n",
    ),
    # the blank before </s> is layout: neither part of a reply nor its end
    "llama2": Family(LLAMA2, "</s>", "</s>", "<s>", after="</s><s>[INST] SEEN [/INST]"),
    "llama3.1": Family(
        LLAMA31,
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        dated=True,
        after="<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nSEEN<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "granite": Family(
        GRANITE,
        "<|end_of_text|>",
        "<|end_of_text|>",
        specials=("<|start_of_role|>", "<|end_of_role|>"),
        dated=True,
        after="<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>SEEN<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    "gemma2": Family(
        GEMMA2,
        "<eos>",
        "<end_of_turn>",
        "<bos>",
        specials=("<start_of_turn>", "<end_of_turn>"),
        system=False,
        after="<end_of_turn>\n<start_of_turn>user\nSEEN<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi3": Family(
        PHI3,
        "<|endoftext|>",
        "<|end|>",
        specials=("<|user|>", "<|assistant|>", "<|end|>", "<|system|>"),
        after="<|end|>\n<|user|>\nSEEN<|end|>\n<|assistant|>\n",
    ),
    # no end token of its own: the token that opens the next message ends the reply
    "glm4": Family(
        GLM4,
        "<|endoftext|>",
        "<|user|>",
        specials=("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "[gMASK]", "<sop>"),
        after="<|user|>\nSEEN<|assistant|>\n",
    ),
    "mistral": Family(MISTRAL, "</s>", "</s>", "<s>", system=False, after="</s>[INST] SEEN [/INST]"),
    "zephyr": Family(ZEPHYR, "</s>", "</s>", "<s>", after="</s>\n<|user|>\nSEEN</s>\n<|assistant|>\n"),
    "mistral nemo": Family(
        MISTRAL_NEMO,
        "</s>",
        "</s>",
        "<s>",
        specials=("[INST]", "[/INST]"),
        system="first",
        after="</s>[INST]SEEN[/INST]",
    ),
    "deepseek v3.1": Family(
        DEEPSEEK31,
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        added=("<｜User｜>", "<｜Assistant｜>", *_THINK),
        opened="<think></think>",
        after="<｜end▁of▁sentence｜><｜User｜>SEEN<｜Assistant｜></think>",
    ),
    "seed-oss": Family(
        SEED,
        "<seed:eos>",
        "<seed:eos>",
        "<seed:bos>",
        added=("<seed:think>", "</seed:think>"),
        opened="<think>",
        after="<seed:eos><seed:bos>user\nSEEN<seed:eos><seed:bos>assistant\n<seed:think>",
    ),
    "plain": Family(PLAIN, "</s>", "</s>", after="</s>\nuser: SEEN\nassistant: "),
}


def tokenizer_of(family, *, sentencepiece=False):
    """A small tokenizer with the family's tokens: byte-level, or with SentencePiece's blank before a text."""
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=sentencepiece))
    pre = tokenizers.pre_tokenizers
    if sentencepiece:
        backend.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = tokenizers.decoders.Sequence(
            [
                tokenizers.decoders.Replace("▁", " "),
                tokenizers.decoders.ByteFallback(),
                tokenizers.decoders.Fuse(),
                tokenizers.decoders.Strip(content=" ", left=1),
            ]
        )
        alphabet = ["▁", *map(chr, range(33, 127))]
        tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        alphabet, tokens = sorted(pre.ByteLevel.alphabet()), []
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=620 if sentencepiece else 300,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=tokens,
    )
    backend.train_from_iterator(["go left", "go right", "You are in room 1. open door"], trainer)
    special = [token for token in (family.eos, family.bos, *family.specials, "<pad>") if token]
    backend.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in dict.fromkeys(special)])
    backend.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in family.added])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=family.eos,
        bos_token=family.bos,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = family.template
    return made
