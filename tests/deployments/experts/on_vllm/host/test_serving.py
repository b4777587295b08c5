"""A host computes what engines ask, from several at once, and lives on whatever they send."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.experts.host import work_desk
from deployments.experts.kernel import PairRequest
from deployments.experts.kernel_choice import HostExperts
from experts.settings import Precision
from experts.transport import messages
from experts.transport.errors import PeerLostError, RefusedError
from experts.transport.link import LinkSettings
from experts.transport.message_words import HEADER_BYTES
from experts.transport.messages import RequestHeader, RowType, Status
from experts.types import EMPTY_SLOT
from tests.deployments.experts.on_vllm.host.engine_client import Answer, Client
from tests.deployments.experts.on_vllm.host.random_model import (
    HIDDEN,
    NUM_EXPERTS,
    NUM_LAYERS,
    RandomModel,
)
from tests.deployments.experts.on_vllm.host.running_host import (
    Experts,
    HeldKernel,
    RunningHost,
    best_experts,
    plain_experts,
    running,
    settings_in,
)

pytestmark = pytest.mark.model

HELD = [(0, 0, 1), (0, 1, 3), (1, 0, 2), (1, 2, 0)]
"""Layer, slot, expert."""
PAIRS = [(0, 0), (2, 1), (1, 0), (0, 1)]
ROW_TO_EXPERT = [(0, 1), (2, 3), (1, 1), (0, 3)]
"""The same pairs, of layer 0, with the experts that the slots hold."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return RandomModel.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[best_experts, plain_experts])
def build(request: pytest.FixtureRequest) -> Experts:
    found: Experts = request.param
    return found


@pytest.fixture
def host(model: RandomModel, socket_folder: Path) -> Iterator[RunningHost]:
    with running(model, settings_in(socket_folder)) as found:
        with found.client("director") as director:
            director.fill(*HELD)
        yield found


@pytest.fixture
def held_host(
    model: RandomModel, socket_folder: Path
) -> Iterator[tuple[RunningHost, HeldKernel]]:
    """Its kernel waits in its first call."""
    given = settings_in(socket_folder)
    experts = best_experts(model, given)
    kernel = HeldKernel(experts.kernel)
    held = HostExperts(experts.slots, kernel, experts.bytes_per_slot)
    with running(model, given, held) as found:
        with found.client("director") as director:
            director.fill(*HELD)
        try:
            yield found, kernel
        finally:
            kernel.may_go.set()


def check_good(client: Client, model: RandomModel, version: int = 2) -> None:
    """The host computes."""
    answer = client.asked(0, model.rows, PAIRS, version)
    assert answer.status == Status.OK
    np.testing.assert_allclose(answer.rows, model.expected(0, ROW_TO_EXPERT), rtol=1e-4)


@pytest.mark.parametrize("where", [0, 1])
def test_a_row_comes_back_for_each_pair(
    model: RandomModel, socket_folder: Path, build: Experts, where: int
) -> None:
    with running(model, settings_in(socket_folder), build) as host, host.client("d") as client:
        client.fill(*HELD)
        with host.client(where=where) as engine:
            answer = engine.asked(0, model.rows, PAIRS, 2)
            times = answer.header.compute_s, answer.header.queue_s
            assert answer.header._replace(compute_s=0.0, queue_s=0.0) == (
                *(1, Status.OK, len(PAIRS), HIDDEN, RowType.FLOAT32),
                *(0.0, 0.0, False),
            )
            assert 0 < times[0] < 10
            assert 0 <= times[1] < 10
            expected = model.expected(0, ROW_TO_EXPERT)
            np.testing.assert_allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)
            other = engine.asked(1, model.rows[1:2], [(0, 2), (0, 0)], 2)
            expected = model.expected(1, [(1, 0), (1, 2)])
            np.testing.assert_allclose(other.rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["full", "int8"])
@pytest.mark.parametrize("wants_float32", [False, True])
def test_rows_of_bfloat16_are_those_of_the_kernel_rounded_once(
    model: RandomModel, socket_folder: Path, precision: Precision, wants_float32: bool
) -> None:
    wanted = settings_in(socket_folder, dtype="bfloat16")
    wanted = replace(wanted, precision=precision)
    with running(model, wanted) as host, host.client() as engine:
        engine.fill(*HELD)
        rows = torch.from_numpy(model.rows).bfloat16()
        bits = rows.view(torch.uint16).numpy()
        answer = engine.asked(0, bits, PAIRS, 2, wants_float32=wants_float32, has_checksum=True)
        assert answer.header.has_checksum
        pairs = np.array(PAIRS, np.int32)
        direct = PairRequest(bits, pairs[:, 0].copy(), pairs[:, 1].copy())
        (expected,) = host.experts.kernel.compute(0, [direct])
        if wants_float32:
            assert np.array_equal(answer.rows, expected)
        else:
            found = torch.from_numpy(answer.rows).view(torch.bfloat16)
            assert torch.equal(found, torch.from_numpy(expected).bfloat16())


def test_requests_of_one_layer_are_computed_by_one_call(
    held_host: tuple[RunningHost, HeldKernel], model: RandomModel
) -> None:
    host, kernel = held_host
    with host.client() as first, host.client() as a, host.client() as b, host.client() as c:
        first.ask(0, model.rows, PAIRS, 2)
        assert kernel.has_begun.wait(20)
        a.ask(0, model.rows, PAIRS, 2)
        b.ask(1, model.rows, [(0, 0)], 2)
        c.ask(0, model.rows, [(1, 1)], 2)
        kernel.may_go.set()
        answers: list[Answer] = [client.answer() for client in (first, a, b, c)]
        assert {answer.status for answer in answers} == {Status.OK}
        # The one pair of layer 1 does not wait for the five of layer 0.
        assert kernel.calls == [(0, 1), (1, 1), (0, 2)]
        for answer, layer, pairs in zip(
            answers,
            (0, 0, 1, 0),
            (ROW_TO_EXPERT, ROW_TO_EXPERT, [(0, 2)], [(1, 3)]),
            strict=True,
        ):
            expected = model.expected(layer, pairs)
            np.testing.assert_allclose(answer.rows, expected, rtol=1e-4, atol=1e-5)
        assert all(answer.header.queue_s > 0 for answer in answers[1:])


def test_a_host_that_hangs_says_for_how_long(
    held_host: tuple[RunningHost, HeldKernel], model: RandomModel
) -> None:
    host, kernel = held_host
    with host.client() as engine:
        engine.ask(0, model.rows, PAIRS, 2)
        assert kernel.has_begun.wait(20)
        # Longer than it waits where there is nothing to do.
        time.sleep(1.5)
        assert host.host.turn_s >= 1.5
        kernel.may_go.set()
        assert engine.answer().status == Status.OK
        assert engine.asked(0, model.rows, PAIRS, 2).status == Status.OK
        assert host.host.turn_s < 1.5


def test_a_stale_request_does_not_keep_others_of_its_call_from_being_computed(
    held_host: tuple[RunningHost, HeldKernel], model: RandomModel
) -> None:
    host, kernel = held_host
    with host.client() as first, host.client() as stale, host.client() as good:
        first.ask(0, model.rows, PAIRS, 2)
        assert kernel.has_begun.wait(20)
        stale.ask(0, model.rows, PAIRS, 1)
        good.ask(0, model.rows, PAIRS, 2)
        kernel.may_go.set()
        assert [client.answer().status for client in (first, stale, good)] == [
            Status.OK,
            Status.OTHER_MAP,
            Status.OK,
        ]
        assert kernel.calls == [(0, 1), (0, 1)]


def test_slots_that_lost_their_expert_behind_the_tables_back_fail_their_request_alone(
    held_host: tuple[RunningHost, HeldKernel], model: RandomModel
) -> None:
    host, kernel = held_host
    with host.client() as first, host.client() as stale, host.client() as good:
        first.ask(1, model.rows, [(0, 0)], 2)
        assert kernel.has_begun.wait(20)
        host.experts.slots.held[0, 1] = EMPTY_SLOT
        stale.ask(0, model.rows, [(0, 0), (0, 1)], 2)
        good.ask(0, model.rows, [(0, 0)], 2)
        kernel.may_go.set()
        assert [client.answer().status for client in (first, stale, good)] == [
            Status.OK,
            Status.OTHER_MAP,
            Status.OK,
        ]
        host.experts.slots.held[0, 1] = 3


def test_a_kernel_that_fails_fails_its_requests_and_not_the_host(
    held_host: tuple[RunningHost, HeldKernel],
    model: RandomModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A record that pytest keeps would keep the frames of the traceback.
    monkeypatch.setattr(work_desk.log, "disabled", True)
    host, kernel = held_host
    kernel.may_go.set()
    with host.client() as engine:
        kernel.error = RuntimeError("no more memory")
        assert engine.asked(0, model.rows, PAIRS, 2).status == Status.FAILED
        kernel.error = None
        check_good(engine, model)


@pytest.mark.parametrize(
    ("layer", "pairs", "changed"),
    [
        (NUM_LAYERS, PAIRS, {}),
        (0, [(0, 3)], {}),
        (0, [(0, 2**32 - 1)], {}),
        (0, [(3, 0)], {}),
        (0, PAIRS, {"has_checksum": True, "sequence": 0}),
    ],
)
def test_a_request_that_cannot_be_is_answered_so(
    host: RunningHost,
    model: RandomModel,
    layer: int,
    pairs: list[tuple[int, int]],
    changed: dict[str, object],
) -> None:
    with host.client() as engine:
        if changed:
            frame = bytearray(_request_frame(engine, model))
            frame[-1] ^= 1
            engine.send(bytes(frame))
            answer = engine.answer()
        else:
            answer = engine.asked(layer, model.rows, pairs, 2)
        assert answer.status == Status.BAD_REQUEST
        check_good(engine, model)


def _request_frame(engine: Client, model: RandomModel) -> bytes:
    """With a checksum, built where it is not sent."""
    header = RequestHeader(7, 0, 2, 3, 1, HIDDEN, RowType.FLOAT32, has_checksum=True)
    frame = memoryview(bytearray(header.num_bytes))
    views = messages.write_request(frame, header)
    views.pair_rows[:] = views.pair_slots[:] = 0
    views.rows[:] = model.rows
    messages.seal(frame)
    return bytes(frame)


def test_rows_of_another_size_or_type_are_refused(
    host: RunningHost, model: RandomModel
) -> None:
    with host.client() as engine:
        narrow = np.ascontiguousarray(model.rows[:, : HIDDEN // 2])
        assert engine.asked(0, narrow, PAIRS, 2).status == Status.BAD_REQUEST
        bits = model.rows.view(np.uint16)[:, :HIDDEN].copy()
        assert engine.asked(0, bits, PAIRS, 2).status == Status.BAD_REQUEST
        check_good(engine, model)


def test_an_answer_that_fits_no_frame_is_refused_before_it_is_computed(
    host: RunningHost, model: RandomModel
) -> None:
    with Client(
        host.host.addresses[0], host.digest, "small", LinkSettings(max_frame_bytes=1024)
    ) as engine:
        assert engine.asked(0, model.rows[:1], [(0, 0)] * 8, 2).status == Status.BAD_REQUEST
        assert engine.asked(0, model.rows[:1], [(0, 0)] * 7, 2).status == Status.OK


def test_a_request_without_pairs_is_answered_without_rows(
    host: RunningHost, model: RandomModel
) -> None:
    with host.client() as engine:
        answer = engine.asked(0, model.rows, [], 2)
        assert (answer.status, answer.rows.shape) == (Status.OK, (0, HIDDEN))


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_request_by_another_table_is_told_so(
    host: RunningHost, model: RandomModel, version: int
) -> None:
    with host.client() as engine:
        assert engine.asked(0, model.rows, PAIRS, version).status == Status.OTHER_MAP
        check_good(engine, model)


def test_an_empty_slot_is_another_table(host: RunningHost, model: RandomModel) -> None:
    with host.client() as engine:
        assert engine.asked(0, model.rows, [(0, 2)], 2).status == Status.OTHER_MAP


@pytest.mark.parametrize("where", [0, 1])
def test_frames_that_are_none_close_their_link_alone(
    host: RunningHost, model: RandomModel, where: int
) -> None:
    frames = [
        b"",
        b"\1\0\1",
        b"\1\0\1\0\0\0\0\0",
        b"\2\0\1" + bytes(HEADER_BYTES),
        *(bytes([1, 0, kind]) + bytes(9) for kind in (0, 2, 4, 5, 7, 8, 9, 255)),
    ]
    with host.client(where=where) as other:
        for frame in frames:
            with host.client("broken", where) as broken:
                broken.send(frame)
                assert broken.is_hung_up_on(), frame
        check_good(other, model)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_frame_ends_the_host(
    host: RunningHost, model: RandomModel, data: st.DataObject
) -> None:
    with host.client("broken") as broken:
        good = _request_frame(broken, model)
        frame = bytearray(data.draw(st.binary(max_size=80) | st.just(good)))
        if frame:
            frame[0:2] = b"\1\0"[: len(frame)]
            at = data.draw(st.integers(0, min(len(frame), 72) - 1))
            frame[at] = data.draw(st.integers(0, 255))
        broken.send(bytes(frame))
    with host.client() as engine:
        check_good(engine, model)


def test_one_that_never_reads_is_hung_up_on_and_holds_up_nobody(
    host: RunningHost, model: RandomModel
) -> None:
    with host.client("deaf") as deaf, host.client() as engine:
        many = [(0, 0)] * 100  # 12,864 bytes in an answer; a link has room for 10
        for _ in range(40):
            try:
                deaf.ask(0, model.rows, many, 2)
            except PeerLostError:
                break
            check_good(engine, model)
        assert deaf.is_hung_up_on()
        check_good(engine, model)


def test_a_model_of_another_shape_gets_no_link(host: RunningHost) -> None:
    with pytest.raises(RefusedError, match="serves the model"):
        Client(host.host.addresses[0], "sha256:0")


def test_what_was_computed_is_counted(host: RunningHost, model: RandomModel) -> None:
    with host.client() as engine:
        began = engine.report()
        assert (began.host, began.num_requests, began.num_engines) == (host.host.host, 0, 0)
        assert began.table.held.tolist() == [[1, 3, -1], [2, -1, 0]]
        assert not began.tokens.any()
        engine.follow()
        for _ in range(8):
            engine.asked(0, model.rows, PAIRS, 2)
        engine.asked(1, model.rows, [(0, 0)], 2)
        engine.asked(1, model.rows, [(0, 0)], 1)
        report = engine.report()
        tokens, activations = np.zeros((2, 2, NUM_EXPERTS), int)
        tokens[0, [1, 3]], activations[0, [1, 3]] = 16, 8
        tokens[1, 2] = activations[1, 2] = 1
        assert report.tokens.tolist() == tokens.tolist()
        assert report.activations.tolist() == activations.tolist()
        assert (report.num_requests, report.num_engines) == (10, 1)
        assert 0 < report.busy_share <= 1
        assert 0 <= report.queue_s < 1
        assert report.activation_s >= 0
        assert report.token_s >= 0
        assert not report.is_leaving
        assert engine.report().busy_share == 0.0
        assert host.host.report().busy_share > 0
