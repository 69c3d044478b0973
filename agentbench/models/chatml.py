"""ChatML's markers and template, for models that are made from nothing."""

from __future__ import annotations

END_OF_TURN = "<|im_end|>"

START_OF_TURN = "<|im_start|>"

END_OF_TEXT = "<|endoftext|>"

SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)

CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""ChatML as Qwen3 writes it, without tools and thinking: `<|im_start|>role\\ncontent<|im_end|>\\n` per message."""
