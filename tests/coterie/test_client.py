"""The blocking client against a server that speaks the real protocol."""

import gc
import threading

import pytest

from coterie import Chunk, Client, Collector, DeadlineError, Message, Usage
from coterie.errors import UnavailableError
from tests.builders.fake_inference import REPLY, FakeInference

PATIENCE_S = 5.0


def test_a_stream_brings_the_answer_in_pieces_and_then_the_usage(client: Client) -> None:
    stream = client.generate("abc", max_tokens=2, request_id="r1")
    assert stream.usage is None
    assert list(stream) == [
        Chunk("r1", "fake", 0, "t", (116,)),
        Chunk("r1", "fake", 0, "h", (104,), "length", usage=Usage(3, 2, 0)),
    ]
    assert stream.usage == Usage(3, 2, 0)


def test_a_unary_call_brings_the_whole_answer(client: Client) -> None:
    response = client.generate_unary("abc")
    assert response.text == REPLY
    assert response.outputs[0].finish_reason == "stop"
    assert response.usage == Usage(3, len(REPLY), 0)


def test_the_collected_chunks_of_several_outputs_equal_the_unary_response(
    client: Client,
) -> None:
    collector = Collector()
    for chunk in client.generate("abc", n=3, max_tokens=5):
        collector.add(chunk)
    assert collector.response() == client.generate_unary("abc", n=3, max_tokens=5)
    assert [output.text for output in collector.response().outputs] == ["there"] * 3


def test_logprobs_come_one_for_each_token(client: Client) -> None:
    chunks = list(client.generate("abc", max_tokens=3, logprobs=0))
    assert [logprobs.chosen.text for c in chunks for logprobs in c.logprobs] == list("the")


def test_a_prompt_of_token_ids_is_sent_as_it_is(client: Client, fake: FakeInference) -> None:
    client.generate_unary([1, 2, 3])
    assert list(fake.requests[-1].token_ids.ids) == [1, 2, 3]


def test_a_conversation_reaches_the_cluster_as_messages(
    client: Client, fake: FakeInference
) -> None:
    stream = client.chat([("system", "Be brief."), {"role": "user", "content": "Hello"}])
    assert "".join(chunk.text for chunk in stream) == REPLY
    sent = [(message.role, message.content) for message in fake.requests[-1].messages]
    assert sent == [("system", "Be brief."), ("user", "Hello")]


def test_an_unfinished_last_message_is_to_be_continued(
    client: Client, fake: FakeInference
) -> None:
    client.chat_unary([Message("user", "Hi"), Message("assistant", "He", is_unfinished=True)])
    assert fake.requests[-1].continue_final_message


def test_metadata_goes_with_every_call(address: str, fake: FakeInference) -> None:
    with Client(address, metadata=[("x-team", "blue")]) as client:
        client.models()
    assert fake.metadata[-1]["x-team"] == "blue"


def test_detokenize_reverses_tokenize(client: Client) -> None:
    tokenization = client.tokenize("Grüße")
    assert tokenization.max_model_len == 2048
    assert client.detokenize(tokenization.token_ids) == "Grüße"


def test_models_are_listed_and_an_adapter_names_its_base(client: Client) -> None:
    assert [model.name for model in client.models()] == ["fake", "fake-adapter"]
    assert client.model("fake-adapter").base_model == "fake"
    assert client.model().base_model is None


def test_breaking_out_of_the_loop_ends_the_request_in_the_cluster(
    client: Client, fake: FakeInference
) -> None:
    fake.hold_after = 3
    for _ in client.generate("abc"):
        break
    assert fake.ended_early.wait(PATIENCE_S)


def test_an_exception_in_the_loop_ends_the_request_in_the_cluster(
    client: Client, fake: FakeInference
) -> None:
    fake.hold_after = 3
    with pytest.raises(ZeroDivisionError), client.generate("abc") as stream:
        for _ in stream:
            raise ZeroDivisionError
    assert fake.ended_early.wait(PATIENCE_S)


def test_dropping_a_stream_ends_the_request_in_the_cluster(
    client: Client, fake: FakeInference
) -> None:
    fake.hold_after = 3
    stream = client.generate("abc")
    next(stream)
    assert not fake.ended_early.is_set()
    del stream
    assert fake.ended_early.wait(PATIENCE_S)


def test_a_stream_read_to_its_end_is_not_cancelled(client: Client, fake: FakeInference) -> None:
    with client.generate("abc") as stream:
        assert len(list(stream)) == len(REPLY)
    assert list(stream) == []
    assert not fake.ended_early.is_set()


def test_a_stream_cancelled_from_another_thread_stops_cleanly(
    client: Client, fake: FakeInference
) -> None:
    fake.hold_after = 3
    stream = client.generate("abc")
    timer = threading.Timer(0.1, stream.cancel)
    timer.start()
    assert [chunk.text for chunk in stream] == ["t", "h", "e"]
    assert fake.ended_early.wait(PATIENCE_S)
    timer.join()


def test_a_deadline_ends_a_stream_on_both_sides(client: Client, fake: FakeInference) -> None:
    fake.hold_after = 3
    with pytest.raises(DeadlineError, match=r"timeout_s=0\.3"):
        list(client.generate("abc", timeout_s=0.3))
    assert fake.ended_early.wait(PATIENCE_S)


def test_a_deadline_ends_a_unary_call(client: Client, fake: FakeInference) -> None:
    fake.hold_after = 0
    with pytest.raises(DeadlineError, match=r"timeout_s=0\.3"):
        client.generate_unary("abc", timeout_s=0.3)
    assert fake.ended_early.wait(PATIENCE_S)


def test_closing_the_client_breaks_off_its_open_streams(
    client: Client, fake: FakeInference
) -> None:
    fake.hold_after = 1
    stream = client.generate("abc")
    next(stream)
    client.close()
    with pytest.raises(UnavailableError, match="ended before the answer did"):
        next(stream)
    assert fake.ended_early.wait(PATIENCE_S)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_closed_client_says_so_and_nothing_else(client: Client) -> None:
    client.models()
    client.close()
    for ask in (client.generate, client.generate_unary):
        with pytest.raises(UnavailableError, match="is the client closed"):
            ask("abc")
    gc.collect()
