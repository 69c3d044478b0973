"""Whether a model continues a text: what it says of a token must not depend on the tokens that come later.

Engines sample from rows that grow and trainers score rows that are whole, so they agree for such models alone. Tried
and not read from a name: encoders load as language models, too. Leaves out opening a model (`loading`).
"""

from __future__ import annotations

from typing import Any

from ..errors import UsageError

_TEXT = "The red door is on the left, the blue door is on the right, and the key lies on the table."
_SHORT, _LONG = 9, 12
_LARGEST = {"float32": 1e-3, "float64": 1e-3}
_LARGEST_LOW = 0.3
"""Change of the logits that is allowed, as a share of their spread. Seen in right models: 3e-6 in float32, 0.02 in low
precision; in encoders of random weights 0.03 to 0.5, and trained ones look further. No right model may be refused, so
low precision allows much, and the median over positions is taken: rounding may send single tokens to other experts."""


def check_kind(config: Any, name: str) -> None:
    """Refuse what transformers does not open as a causal language model, before any weights are read.

    Raises: UsageError: names the model and its type.
    """
    from transformers import AutoModelForCausalLM

    kind = f"model {name!r} (model_type {getattr(config, 'model_type', '')!r})"
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"{kind} is an encoder-decoder: it does not continue one text, and a causal language model (decoder only) "
            "is wanted"
        )
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForCausalLM._model_mapping and not own_code:
        raise UsageError(f"{kind} is none of the causal language models that transformers knows")


def check_causal(model: Any, tokenizer: Any, name: str) -> None:
    """Try whether logits stay what they are when a text goes on.

    Args:
        model: in eval mode, on its device.
        tokenizer: of the model.
        name: for the error.
    Raises: UsageError: they do not, or the model does not run on token ids.
    """
    import torch

    rows = int(model.get_input_embeddings().weight.shape[0])
    text = [token for token in tokenizer.encode(_TEXT, add_special_tokens=False) if token < rows]
    spread = [(7 * i + 5) % rows for i in range(_LONG)]
    ids = torch.tensor([(text if len(text) >= _LONG else spread)[:_LONG]], device=model.device)
    kind = f"model {name!r} ({type(model).__name__})"
    try:
        with torch.no_grad():
            short, longer = (
                model(input_ids=ids[:, :length], use_cache=False).logits[0, :_SHORT].float()
                for length in (_SHORT, _LONG)
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UsageError(
            f"{kind} does not run on token ids alone: {type(error).__name__}: {first}"
        ) from error
    spreads = short.std(-1).clamp(min=1e-9)
    change = float(((short - longer).square().mean(-1).sqrt() / spreads).median())
    allowed = _LARGEST.get(str(model.dtype).removeprefix("torch."), _LARGEST_LOW)
    if change > allowed:
        hint = ""
        if getattr(model.config, "is_decoder", None) is False:
            hint = "; if it was trained as a decoder, set is_decoder: true in its config.json"
        raise UsageError(
            f"{kind} is not causal: its logits move by {change:.2g} of their spread when later tokens follow, so what "
            f"it samples is not what is scored{hint}"
        )
