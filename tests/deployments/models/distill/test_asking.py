from hypothesis import given
from hypothesis import strategies as st

from deployments.models.distill import asking
from deployments.models.distill.asking import Encoded, plan_batches

PROMPTS = st.lists(
    st.builds(
        Encoded,
        task=st.sampled_from(["chat", "code"]),
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple),
    ),
    max_size=12,
)


@given(training=PROMPTS, held_out=PROMPTS)
def test_every_prompt_is_asked_once_with_others_of_its_task_and_the_held_out_ones_first(
    training: list[Encoded], held_out: list[Encoded]
) -> None:
    planned = plan_batches(training, held_out, num_new=4)
    for is_held_out, prompts in ((True, held_out), (False, training)):
        asked = [
            (batch.task, tokens)
            for batch in planned
            if batch.is_held_out == is_held_out
            for tokens in batch.prompts
        ]
        assert sorted(asked) == sorted((prompt.task, prompt.tokens) for prompt in prompts)
    order = [batch.is_held_out for batch in planned]
    assert order == sorted(order, reverse=True)


def test_chat_has_five_turns_for_each_of_another_task() -> None:
    length = asking._BATCH_PLACES - 4  # each prompt needs a batch to itself
    prompts = [Encoded(task, (0,) * length) for task in ("chat", "code") for _ in range(6)]
    tasks = [batch.task for batch in plan_batches(prompts, [], num_new=4)]
    assert tasks == ["chat", "code", *["chat"] * 5, *["code"] * 5]


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=30))
def test_a_batch_has_room_in_the_caches(lengths: list[int]) -> None:
    prompts = [Encoded("chat", (0,) * length) for length in lengths]
    for batch in plan_batches(prompts, [], num_new=100):
        places = len(batch.prompts) * (max(map(len, batch.prompts)) + 100)
        assert len(batch.prompts) == 1 or places <= asking._BATCH_PLACES
