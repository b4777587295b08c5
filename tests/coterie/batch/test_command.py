"""`coterie batch`, against the gateway's HTTP door."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from infra.errors import CapacityError, InvalidArgumentError
from tests.builders.fake_service import FakeGeneration, FakeService, text_deltas
from tests.coterie.batch.lines import ids_in, line, read_lines, write_lines, write_requests
from tests.deployments.gateway.http.server import serving

ENV = {"COTERIE_URL": None, "COTERIE_API_KEY": None, "COTERIE_DEBUG": None}


class ModeratelyQuickService(FakeService):
    """Takes a few milliseconds, so that a batch can be ended in its middle."""

    async def generate(self, *args: Any, **kwargs: Any) -> FakeGeneration:
        await asyncio.sleep(0.01)
        return await super().generate(*args, **kwargs)


class ChoosyService(FakeService):
    """Refuses prompts by their text: for good, or the first time alone."""

    async def generate(self, *args: Any, **kwargs: Any) -> FakeGeneration:
        generation = await super().generate(*args, **kwargs)
        prompt = self.last_call.prompt
        if prompt == "bad":
            raise InvalidArgumentError("bad words", param="prompt")
        if prompt == "later" and [call.prompt for call in self.calls].count("later") == 1:
            raise CapacityError("no room", retry_after_s=0.01)
        return generation


def batch(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ("batch", *map(str, args)), env=ENV)


async def batch_on(service: FakeService, *args: str | Path) -> Result:
    async with serving(service) as address:
        return await asyncio.to_thread(batch, *args, "--url", f"{address}/v1/")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


async def test_answers_are_written_with_their_ids(tmp_path: Path, out: Path) -> None:
    service = FakeService(text_deltas("one", "two"))
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    lines = [line("a", url="/v1/chat/completions", body=chat), line("c", "hey")]
    source = write_lines(tmp_path / "in.jsonl", lines)
    result = await batch_on(service, source, out)
    assert result.exit_code == 0, result.output
    assert "2 requests: 2 served, 0 failed; 24 tokens in" in result.stdout
    by_id = {fields["custom_id"]: fields for fields in read_lines(out)}
    assert {fields["error"] for fields in by_id.values()} == {None}
    response = by_id["a"]["response"]
    assert (response["status_code"], len(response["request_id"])) == (200, 32)
    assert response["body"]["choices"][0]["message"]["content"] == "onetwo"
    assert by_id["c"]["response"]["body"]["choices"][0]["text"] == "onetwo"


async def test_low_priority_and_the_key_go_along(tmp_path: Path, out: Path) -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1"
        source = write_lines(tmp_path / "in.jsonl", [line("a", url="/v1/responses")])
        args = (source, out, "--url", url, "--api-key", "secret")
        result = await asyncio.to_thread(batch, *args)
    assert result.exit_code == 0, result.output
    look, head = heads
    assert look.startswith(b"GET /api/v1/models HTTP/1.1")
    assert head.startswith(b"POST /api/v1/responses HTTP/1.1")
    assert b"x-priority: low" in head
    assert b"Authorization: Bearer secret" in head


async def test_certificates_of_the_environment_do_not_count_for_a_url_in_plain_text(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CA_FILE", "CLIENT_CERTIFICATE_FILE", "CLIENT_KEY_FILE"):
        monkeypatch.setenv(f"COTERIE_{name}", __file__)
    source = write_requests(tmp_path / "in.jsonl", 1)
    result = await batch_on(FakeService(text_deltas("one")), source, out)
    assert result.exit_code == 0, result.output
    refused = batch(source, out, "--url", "http://localhost:1/v1", "--tls")
    assert (refused.exit_code, "begin it with https://" in refused.stderr) == (2, True)


async def test_a_second_run_sends_nothing_again(tmp_path: Path, out: Path) -> None:
    service = FakeService(text_deltas("one"))
    source = write_requests(tmp_path / "in.jsonl", 5)
    await batch_on(service, source, out)
    written = read_lines(out)
    result = await batch_on(service, source, out)
    assert (result.exit_code, len(service.calls), read_lines(out)) == (0, 5, written)
    assert "5 served, 0 failed (5 before)" in result.stdout


async def test_failures_for_good_are_recorded_and_told(tmp_path: Path, out: Path) -> None:
    service = ChoosyService(text_deltas("one"))
    errors = tmp_path / "errors.jsonl"
    texts = {"a": "bad", "b": "good", "c": "later"}
    source = write_lines(tmp_path / "in.jsonl", [line(i, t) for i, t in texts.items()])
    result = await batch_on(service, source, out, "--errors", errors, "--json")
    assert (result.exit_code, result.stderr) == (1, "failed: 1 x 400\n")
    told = json.loads(result.stdout)
    assert (told["num_ok"], told["num_failed"], told["errors"]) == (2, 1, {"400": 1})
    assert sorted(ids_in(out)) == ["b", "c"]
    (failed,) = read_lines(errors)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("a", 400)
    assert failed["response"]["body"]["error"]["message"] == "bad words"
    again = await batch_on(service, source, out, "--errors", errors)
    assert (again.exit_code, len(service.calls)) == (1, 4)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers no request but the first look."""
    if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /v1/models"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
    await writer.drain()
    writer.close()


async def test_what_got_no_answer_is_sent_by_the_next_run(tmp_path: Path, out: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", 3)
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        args = (source, out, "--url", url, "--max-retries", "0")
        result = await asyncio.to_thread(batch, *args)
    assert (result.exit_code, result.stderr) == (1, "failed: 3 x unavailable\n")
    assert [fields["error"]["code"] for fields in read_lines(out)] == ["unavailable"] * 3
    service = FakeService(text_deltas("one"))
    assert (await batch_on(service, source, out)).exit_code == 0
    assert sorted(ids_in(out)) == ["r0", "r1", "r2"]


def test_where_nothing_answers_the_exit_code_says_so(tmp_path: Path, out: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", 3)
    result = batch(source, out, "--url", "http://127.0.0.1:1/v1")
    assert (result.exit_code, result.stdout, read_lines(out)) == (3, "", [])
    assert "nothing answers at http://127.0.0.1:1/v1" in result.stderr
    assert "hint: if it runs elsewhere, name it: --url URL" in result.stderr


async def test_a_url_without_v1_is_told_before_anything_is_sent(
    tmp_path: Path, out: Path
) -> None:
    service = FakeService(text_deltas("one"))
    source = write_requests(tmp_path / "in.jsonl", 3)
    async with serving(service) as address:
        result = await asyncio.to_thread(batch, source, out, "--url", address)
    assert (result.exit_code, service.calls, read_lines(out)) == (3, [], [])
    assert f"no OpenAI interface at {address}; does it lack /v1?" in result.stderr


def num_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def killed(sig: signal.Signals, source: Path, out: Path, *args: str) -> tuple[int, str]:
    """A batch in a process of its own, ended when it has written some answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coterie.cli.main", "batch", str(source), str(out), *args),
        stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k not in ENV},
    )
    while num_bytes(out) < 5000:
        assert process.returncode is None
        await asyncio.sleep(0.005)
    process.send_signal(sig)
    _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr.decode()


async def test_a_batch_killed_again_and_again_answers_each_request_once(
    tmp_path: Path, out: Path
) -> None:
    service = ModeratelyQuickService(text_deltas("one", "two"))
    source = write_requests(tmp_path / "in.jsonl", 300)
    async with serving(service) as address:
        args = ("--url", f"{address}/v1", "--max-concurrency", "4")
        await killed(signal.SIGKILL, source, out, *args)
        num_before = len(read_lines(out))
        assert 0 < num_before < 300
        with out.open("ab") as file:
            file.write(b'{"id": "batch_req_12", "custom_id": "r29')
        result = await asyncio.to_thread(batch, source, out, *args)
    assert result.exit_code == 0, result.output
    assert f"300 served, 0 failed ({num_before} before)" in result.stdout
    assert sorted(ids_in(out)) == sorted(f"r{i}" for i in range(300))
    assert len(service.calls) <= 300 + 4


async def test_ctrl_c_names_the_command_that_goes_on(tmp_path: Path, out: Path) -> None:
    service = ModeratelyQuickService(text_deltas("one"))
    source = write_requests(tmp_path / "in.jsonl", 1000)
    async with serving(service) as address:
        args = ("--api-key", "secret", "--url", f"{address}/v1", "--max-concurrency", "4")
        code, stderr = await killed(signal.SIGINT, source, out, *args)
        while service.open_ids:
            await asyncio.sleep(0.005)
    command = f"coterie batch {source} {out} --url {address}/v1 --max-concurrency 4"
    assert (code, stderr) == (1, f"to go on: {command}\n")
    assert 0 < len(read_lines(out)) < 1000


async def test_a_server_that_does_not_know_the_key_ends_the_batch(
    tmp_path: Path, out: Path
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwho?")
        await writer.drain()
        writer.close()

    source = write_requests(tmp_path / "in.jsonl", 100)
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        result = await asyncio.to_thread(batch, source, out, "--url", url)
    assert (result.exit_code, result.stdout, read_lines(out)) == (2, "", [])
    assert "the server does not know the key: who?" in result.stderr


def test_a_wrong_input_is_refused_and_nothing_sent(tmp_path: Path, out: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a"), line("a")])
    result = batch(source, out)
    assert result.exit_code == 2
    assert "lines 1 and 2 have the same custom_id 'a'" in result.stderr


def result_line(custom_id: str, status: int) -> str:
    response = {"status_code": status, "body": {}}
    return json.dumps({"custom_id": custom_id, "response": response})


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("name", ["out.jsonl", "errors.jsonl"])
def test_an_output_of_other_requests_is_refused_and_not_touched(
    tmp_path: Path, out: Path, name: str, status: int
) -> None:
    path = write_lines(tmp_path / name, [result_line("x", status)])
    before = path.read_bytes()
    source = write_requests(tmp_path / "in.jsonl", 1)
    result = batch(source, out, "--errors", tmp_path / "errors.jsonl")
    assert (result.exit_code, path.read_bytes()) == (2, before)
    assert "results of other requests" in result.stderr


async def test_a_request_that_failed_is_mended_under_another_name(
    tmp_path: Path, out: Path
) -> None:
    service = ChoosyService(text_deltas("one"))
    source, errors = tmp_path / "in.jsonl", tmp_path / "errors.jsonl"
    write_lines(source, [line("a", "good"), line("b", "bad")])
    assert (await batch_on(service, source, out, "--errors", errors)).exit_code == 1
    write_lines(source, [line("a", "good"), line("b-mended", "good")])
    result = await batch_on(service, source, out, "--errors", errors)
    assert result.exit_code == 0, result.stderr
    assert (ids_in(out), ids_in(errors)) == (["a", "b-mended"], ["b"])


def test_a_wrong_input_leaves_the_output_as_it_was(tmp_path: Path, out: Path) -> None:
    write_lines(out, [result_line("a", 429)])
    before = out.read_bytes()
    source = write_lines(tmp_path / "in.jsonl", [line("a"), "no request"])
    assert batch(source, out).exit_code == 2
    assert out.read_bytes() == before


async def test_failures_of_requests_that_the_input_no_longer_has_do_not_count(
    tmp_path: Path, out: Path
) -> None:
    write_lines(out, [result_line("gone", 400), result_line("r0", 200)])
    source = write_requests(tmp_path / "in.jsonl", 2)
    result = await batch_on(FakeService(text_deltas("one")), source, out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 requests: 2 served, 0 failed (1 before)" in result.stdout


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--url", "localhost:8000"), "must begin with http://"),
        (("--ca-file", __file__), "begin it with https://"),
        (("--ca-file", __file__, "--url", "https://localhost:1/v1"), "no certificates"),
        (("--api-key", "two\nlines"), "line break"),
        (("--errors", "in.jsonl"), "must differ"),
        (("--max-concurrency", "0"), "--max-concurrency"),
    ],
)
def test_a_wrong_command_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_requests(tmp_path / "in.jsonl", 1)
    result = batch("in.jsonl", "out.jsonl", *args)
    assert (result.exit_code, complaint in result.stderr) == (2, True), result.stderr
