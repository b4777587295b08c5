"""How an output goes on when the engine replica that made it is gone.

*Delivered* is what the client has of the output. Its seam to what another engine makes
must be invisible. There are three *ways*:

- `restart`: nothing has been delivered, so the output begins anew.
- `continue`: another engine reads prompt and delivered tokens as one prompt, and goes on
  behind them. It costs a prefill, of which the prefix cache may know most.
- `replay`: another engine makes the output anew from its beginning; what has been
  delivered is compared and left out. It costs as much as the output did so far. An output
  that comes out differently fails before anything is sent twice.

| field of the sampling | exact by | else |
|---|---|---|
| `temperature`, `top_p`, `top_k`, `min_p` | `continue` | |
| `repetition_penalty`: counts prompt and output alike | `continue` | |
| `logit_bias`, `allowed_token_ids`, `ignore_eos` | `continue` | |
| `max_tokens`, `min_tokens`: what is left of them | `continue` | |
| `stop`, `include_stop`: delivered tokens are read again | `continue` | |
| `stop_token_ids`, `skip_special_tokens` | `continue` | |
| `logprobs`: each token has its own | `continue` | |
| `n`: each unfinished output is a call of its own | as its other fields | |
| `seed`: the state of its generator is lost | `replay` | |
| `presence_penalty`, `frequency_penalty`: count output alone | `replay` | not resumed |
| `bad_words`: one may lie across the seam | `replay` | not resumed |
| `structured_output`: how far its form has come is lost | `replay` | not resumed |
| embeddings | `restart` | |

`replay` needs a request that makes the same tokens again: a greedy or a seeded one. Where
it is neither, the column *else* holds, and the client gets an error that says so.

"Exact" is as exact as the engine is with itself: the same tokens in another batch. In
half precision that turns a near tie now and then, with or without a seam.

Worked example: a greedy request with `frequency_penalty` 0.5 loses its replica after 40
tokens. The next one makes tokens 1 to 40 once more; they are compared, and token 41 is
the next that the client sees.
"""

from dataclasses import dataclass
from typing import Literal

Way = Literal["restart", "continue", "replay"]


@dataclass(frozen=True)
class SamplingTraits:
    """What of a request's sampling bears on how it is resumed."""

    is_greedy: bool
    """Certainly so: a temperature that is left to the model does not count."""
    is_seeded: bool
    remembered: tuple[str, ...] = ()
    """Fields whose effect hangs on the tokens of the output, not on those of the prompt."""

    @property
    def is_repeatable(self) -> bool:
        """The same request again makes the same tokens."""
        return self.is_greedy or self.is_seeded


def ways(traits: SamplingTraits, num_delivered_tokens: int) -> tuple[Way, ...]:
    """How an output may go on, the best way first; none where it cannot be exact.

    The second is for an engine that refuses the first, since its model's defaults ask
    for something that the request does not show.
    """
    if num_delivered_tokens == 0:
        return ("restart",)
    is_drawn_by_seed = traits.is_seeded and not traits.is_greedy
    may_continue = not traits.remembered and not is_drawn_by_seed
    found: tuple[Way, ...] = ("continue",) if may_continue else ()
    return (*found, "replay") if traits.is_repeatable else found
