"""What to distil, and how the time is divided.

    target       the model whose words are to be foreseen
    draft        the small model that foresees them: some of the target's layers, trained
    vocabulary   the tokens that the draft can say: those that the target says most often
    held out     prompts whose answers are never trained on; acceptance is measured there

Of 55 minutes, 30.25 go into answers of the target, 22 into training and the rest into
the measurement.
"""

from dataclasses import dataclass

from infra.errors import ConfigError

# Training for a second time on the same answers teaches them by heart: more of them are better.
ANSWERING_PART = 0.55
TRAINING_PART = 0.4


@dataclass(frozen=True)
class DistillSettings:
    """What the operator chooses.

    `layers` are those of the target that the draft begins as, None is the first
    `num_layers`. `vocabulary` counts tokens, 0 is all of them.
    `num_steps` is the number of training steps, None is as many as there is time for.
    """

    num_layers: int = 3
    layers: tuple[int, ...] | None = None
    vocabulary: int = 8192
    minutes: float = 55.0
    seed: int = 0
    num_steps: int | None = None
    max_answer_tokens: int = 256
    num_held_out: int = 24  # prompts of each task
    top_k: int = 32
    sampled_part: float = 0.3
    temperature: float = 0.7
    step_tokens: int = 1024
    learning_rate: float = 2e-3
    said_weight: float = 0.3  # of the token said, against the target's distribution


def layers_of(settings: DistillSettings, num_target_layers: int) -> tuple[int, ...]:
    """Layers of the target that the draft's begin as, ascending.

    Raises `ConfigError` if the target has not so many.
    """
    if settings.layers is not None:
        return _checked(settings.layers, num_target_layers)
    wanted = settings.num_layers
    if not 1 <= wanted <= num_target_layers:
        raise ConfigError(
            f"a draft of {wanted} layers cannot be made of a target of {num_target_layers}; "
            f"take 1 to {num_target_layers}"
        )
    return tuple(range(wanted))


def check_vocabulary(settings: DistillSettings, num_target_tokens: int) -> None:
    """Raise `ConfigError` if the draft shall say more tokens than the target has."""
    if not 0 <= settings.vocabulary <= num_target_tokens:
        raise ConfigError(
            f"a vocabulary of {settings.vocabulary} tokens cannot be taken of the target's "
            f"{num_target_tokens}; take 1 to {num_target_tokens}, or 0 for all of them"
        )


def _checked(layers: tuple[int, ...], num_target_layers: int) -> tuple[int, ...]:
    if not layers or list(layers) != sorted(set(layers)):
        raise ConfigError(f"layers {layers} must be different ones in ascending order")
    if not 0 <= layers[0] <= layers[-1] < num_target_layers:
        raise ConfigError(
            f"layers {layers} are not among the target's, 0 to {num_target_layers - 1}"
        )
    return layers
