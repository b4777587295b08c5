"""The tokenizer that a GGUF file describes, as a `tokenizer.json` tokenizer.

transformers builds vocabulary, merges and added tokens. It leaves out which
tokens every prompt begins and ends with, and for byte-level vocabularies it
falls back to GPT-2's splitting of text where it does not know the file's own.
Both would give other token ids than the model was trained on, in silence.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
)

from deployments.models.gguf_config import Metadata
from infra.errors import ConfigError

# Splits by llama.cpp's names (`llama-vocab.cpp`): GPT-2's, and GPT-2's after
# every digit has been set apart.
_GPT2_SPLITS = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"})
_DIGIT_SPLITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
# Vocabularies of Llama 3's kind: a word that is a token as a whole is never put
# together from merges, and prompts begin with a token unless the file denies it.
_WHOLE_WORD_SPLITS = frozenset(
    {
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "tekken",
    }
)
_CONTROL = 3

# Tokens by which chat models end a turn; llama.cpp stops at them too.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<EOT>",
)


def build_tokenizer(path: Path, metadata: Metadata) -> PreTrainedTokenizerFast:
    """The tokenizer of the GGUF file at `path`, with special tokens and chat template.

    Raises `ConfigError` if the file's way of splitting text is not known.
    """
    architecture, fields, names = get_gguf_tokenizer(str(path))
    _check_split(fields)
    backend, _ = convert_gguf_tokenizer(architecture, fields)
    if fields.get("pre_tokenizer_type") in _DIGIT_SPLITS:
        backend.pre_tokenizer = _digit_split()
    if fields.get("pre_tokenizer_type") in _WHOLE_WORD_SPLITS:
        backend.model.ignore_merges = True
    backend = _only_own_tokens(backend, len(fields["tokens"]))
    backend.post_processor = _post_processor(metadata, names)
    known = {name: token for name, token in names.items() if token is not None}
    arch = metadata["general.architecture"]
    # The generic class takes `tokenizer.json` as it is written; the classes of
    # single models build parts of it anew when they load.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=metadata.get(f"{arch}.context_length"),
        clean_up_tokenization_spaces=False,
        **known,
    )


def stop_token_ids(tokens: list[str], metadata: Metadata) -> list[int]:
    """Ids that end an output, the file's own end-of-sequence token first.

    GGUF names one such token, while chat models end turns with another. So
    control tokens known as ends of a turn count if the chat template has them.
    """
    named = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    template = str(metadata.get("tokenizer.chat_template", ""))
    types = metadata.get("tokenizer.ggml.token_type") or []
    controls = {token: index for index, token in enumerate(tokens) if _is_control(types, index)}
    ends = [controls[end] for end in _TURN_ENDS if end in template and end in controls]
    return list(dict.fromkeys(int(id_) for id_ in [*named, *ends] if id_ is not None))


def _is_control(types: list[int], index: int) -> bool:
    return index < len(types) and types[index] == _CONTROL


def _digit_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _check_split(fields: dict[str, Any]) -> None:
    if fields.get("tokenizer_type") != "gpt2":
        return
    known = _GPT2_SPLITS | _DIGIT_SPLITS | GGUF_PRE_TOKENIZER_SPLITS.keys()
    name = fields.get("pre_tokenizer_type")
    if name not in known:
        raise ConfigError(
            f"the GGUF file splits text in the way {name!r}, which is not known here (known: "
            f"{', '.join(sorted(known))}); give the original checkpoint as a directory instead"
        )


def _only_own_tokens(backend: Tokenizer, num_tokens: int) -> Tokenizer:
    """The tokenizer without tokens past the file's vocabulary.

    transformers builds it by way of a class of one model, whose special tokens
    are added at the end where the vocabulary lacks them (GPT-2's
    `<|endoftext|>` in a Llama 3). The model has no embedding for those.
    """
    if backend.get_vocab_size(with_added_tokens=True) <= num_tokens:
        return backend
    state = json.loads(backend.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["id"] < num_tokens
    ]
    return Tokenizer.from_str(json.dumps(state))


def _post_processor(metadata: Metadata, names: dict[str, Any]) -> processors.PostProcessor:
    """Puts the tokens around a prompt that the file asks for.

    Defaults are llama.cpp's: a beginning token for SentencePiece vocabularies
    and those of Llama 3's kind.
    """
    key = "tokenizer.ggml"
    is_begun = (
        metadata.get(f"{key}.model") in ("llama", "gemma4")
        or metadata.get(f"{key}.pre") in _WHOLE_WORD_SPLITS
    )
    has_bos = metadata.get(f"{key}.add_bos_token", is_begun)
    has_eos = metadata.get(f"{key}.add_eos_token", False)
    bos, eos = names.get("bos_token"), names.get("eos_token")
    single = [*([bos] if has_bos and bos else []), "$A", *([eos] if has_eos and eos else [])]
    if len(single) == 1:
        # Leaves the ids alone and makes offsets right; this is what byte-level tokenizers use.
        return processors.ByteLevel(trim_offsets=False)
    special = [
        (bos, metadata.get(f"{key}.bos_token_id")),
        (eos, metadata.get(f"{key}.eos_token_id")),
    ]
    return processors.TemplateProcessing(
        single=single,
        pair=[*single, *(f"{piece}:1" if piece != "$A" else "$B:1" for piece in single)],
        special_tokens=[(token, id_) for token, id_ in special if token in single],
    )
