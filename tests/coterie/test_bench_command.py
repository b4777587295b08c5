"""`coterie bench`, against a server that speaks the protocol."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie.benchmark.plot import check_can_plot
from coterie.cli.main import cli
from coterie.errors import CapacityError, ConfigError
from tests.builders.fake_inference import REPLY, FakeInference
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.server import serving


def bench(*args: str, address: str = "") -> Result:
    env = {"COTERIE_ADDRESS": address or None, "COTERIE_DEBUG": None, "COTERIE_API_KEY": None}
    return CliRunner().invoke(cli, ("bench", *args), env=env)


def generated(fake: FakeInference) -> list[str]:
    """Prompts of requests of text that were sent, warm-ups included."""
    return [request.text for request in fake.requests if hasattr(request, "sampling")]


async def test_an_openai_style_server_is_driven_by_its_url() -> None:
    service = FakeService(text_deltas("one", "two"))
    async with serving(service) as url:
        args = ("--url", f"{url}/v1/", "--requests", "3", "--prompt-tokens", "5", "--json")
        result = await asyncio.to_thread(bench, *args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["num_requests"], found["num_output_tokens"]) == (3, 18)
    assert {call.sampling.max_tokens for call in service.calls} == {64}


def test_the_table_tells_totals_and_times(address: str) -> None:
    result = bench("--requests", "5", "--slo-ttft-ms", "60000", address=address)
    assert result.exit_code == 0, result.output
    rows = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert "5 in " in rows["requests"]
    assert rows["prompt tokens"].split()[-1] == str(5 * 256)
    assert rows["output tokens"].split()[-1] == str(5 * len(REPLY))
    assert {"TTFT, ms", "TPOT, ms", "ITL, ms", "E2E, ms", "goodput, requests/s"} <= set(rows)
    assert result.stderr == ""


def test_json_is_one_line(address: str) -> None:
    args = ("--json", "--requests", "3", "--output-tokens", "4", "--rate", "500")
    (line,) = bench(*args, address=address).stdout.splitlines()
    found = json.loads(line)
    assert (found["num_requests"], found["num_failed"], found["errors"]) == (3, 0, {})
    assert found["num_output_tokens"] == 12
    assert found["ttft_s"]["median"] > 0


def test_made_up_prompts_have_exact_lengths_and_differ(
    address: str, fake: FakeInference
) -> None:
    args = ("--requests", "4", "--warmup", "2", "--prompt-tokens", "30", "--ignore-eos")
    assert bench(*args, address=address).exit_code == 0
    sent = [request for request in fake.requests if hasattr(request, "sampling")]
    prompts = {tuple(request.token_ids.ids) for request in sent}
    assert (len(sent), len(prompts)) == (6, 6)
    assert {len(prompt) for prompt in prompts} == {30}
    assert all(request.sampling.ignore_eos for request in sent)


def test_prompts_of_a_file_are_sent_in_order(
    address: str, fake: FakeInference, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    args = ("--prompts", str(path), "--requests", "3", "--warmup", "0", "--concurrency", "1")
    assert bench(*args, address=address).exit_code == 0
    assert generated(fake) == ["one", "two", "one"]
    assert not fake.requests[-1].sampling.ignore_eos


def test_a_chat_sends_messages_and_the_key_goes_along(
    address: str, fake: FakeInference
) -> None:
    args = ("--chat", "--requests", "1", "--prompt-tokens", "2", "--api-key", "secret")
    assert bench(*args, address=address).exit_code == 0
    (message,) = fake.requests[-1].messages
    assert (message.role, len(message.content.split())) == ("user", 2)
    assert fake.metadata[-1]["authorization"] == "Bearer secret"


def test_a_trace_is_replayed_whole(address: str, fake: FakeInference, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [{"timestamp": ms, "input_length": 9, "output_length": 2} for ms in (0, 20, 40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    args = ("--trace", str(path), "--speed", "10", "--warmup", "0", "--json")
    found = json.loads(bench(*args, address=address).stdout)
    assert (found["num_requests"], found["num_output_tokens"]) == (3, 6)
    assert [len(request.token_ids.ids) for request in fake.requests[-3:]] == [9, 9, 9]


def test_the_file_has_settings_summary_and_samples_but_no_key(
    address: str, tmp_path: Path
) -> None:
    path = tmp_path / "samples.json"
    args = ("--requests", "2", "--output", str(path), "--api-key", "secret", "--seed", "7")
    assert bench(*args, address=address).exit_code == 0
    text = path.read_text()
    written = json.loads(text)
    assert "secret" not in text
    assert (written["settings"]["seed"], written["settings"]["address"]) == (7, address)
    assert written["summary"]["num_requests"] == len(written["samples"]) == 2
    assert len(written["samples"][0]["itl_s"]) == len(REPLY) - 1


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_picture_is_drawn(address: str, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"load{suffix}"
    assert bench("--requests", "2", "--plot", str(path), address=address).exit_code == 0
    assert path.read_bytes().startswith(magic)


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'coterie\[plot\]'"):
        check_can_plot(Path("load.png"))


def test_a_picture_of_another_kind_is_refused_before_anything_is_sent(
    address: str, fake: FakeInference
) -> None:
    result = bench("--plot", "load.txt", address=address)
    assert (result.exit_code, fake.requests) == (2, [])


def test_failures_are_told_by_kind_and_are_no_success(
    address: str, fake: FakeInference
) -> None:
    fake.failure, fake.fail_after = CapacityError("no room"), 1
    result = bench("--requests", "3", address=address)
    assert result.exit_code == 1
    assert "3 x overloaded: no room" in result.stderr
    assert "3 failed" in result.stdout
    assert "TTFT" not in result.stdout


def test_json_leaves_messages_of_failures_to_standard_error(
    address: str, fake: FakeInference
) -> None:
    fake.failure, fake.fail_after = CapacityError("no room"), 1
    result = bench("--requests", "2", "--json", address=address)
    assert json.loads(result.stdout)["errors"] == {"overloaded": 2}
    assert "2 x overloaded: no room" in result.stderr


def test_where_no_cluster_answers_the_exit_code_says_so() -> None:
    result = bench("--requests", "1", address="127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "coterie up" in result.stderr


@pytest.mark.parametrize("api", ["native", "kserve"])
def test_a_cluster_that_says_nothing_is_not_waited_for_for_ever(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.benchmark.driver.CONTACT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = bench("--api", api, "--model", "m", address=address)
    assert (result.exit_code, result.stdout) == (5, "")


async def test_the_url_of_the_environment_counts_where_openai_is_asked_for(
    address: str, fake: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService(text_deltas("one", "two"))
    async with serving(service) as url:
        monkeypatch.setenv("COTERIE_URL", f"{url}/v1")
        args = ("--requests", "1", "--warmup", "0", "--prompt-tokens", "5")
        openai = await asyncio.to_thread(bench, "--api", "openai", *args)
        native = await asyncio.to_thread(bench, *args, address=address)
    assert (openai.exit_code, native.exit_code) == (0, 0), openai.output + native.output
    assert (len(service.calls), len(generated(fake))) == (1, 1)


@pytest.mark.parametrize("args", [("--api", "openai"), ("--api", "openai", "--url", "")])
def test_an_empty_url_is_none_and_measures_no_other_server(
    address: str, fake: FakeInference, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COTERIE_URL", "")
    result = bench(*args, address=address)
    assert (result.exit_code, generated(fake)) == (2, [])


def test_an_empty_url_on_the_command_line_is_refused(address: str, fake: FakeInference) -> None:
    result = bench("--url", "", address=address)
    assert (result.exit_code, generated(fake)) == (2, [])
    assert "must begin with http://" in result.stderr


async def test_tls_of_the_environment_does_not_count_for_a_url_in_plain_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COTERIE_TLS", "1")
    service = FakeService(text_deltas("one"))
    async with serving(service) as url:
        args = ("--url", f"{url}/v1", "--requests", "1", "--warmup", "0")
        result = await asyncio.to_thread(bench, *args)
    assert (result.exit_code, len(service.calls)) == (0, 1), result.output


def test_the_certificates_count_for_a_url_too(tmp_path: Path) -> None:
    result = bench("--url", "http://localhost:1/v1", "--tls")
    assert result.exit_code == 2
    assert "begin it with https://" in result.stderr


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--rate", "1", "--concurrency", "1"), "either --concurrency or --rate"),
        (("--prompts", __file__, "--trace", __file__), "either --prompts or --trace"),
        (("--prompt-tokens", "5:3"), "not fall"),
        (("--prompt-tokens", "0"), "begin at 1"),
        (("--output-tokens", "many"), "neither a number nor MIN:MAX"),
        (("--url", "localhost:8000"), "must begin with http://"),
        (("--trace", __file__), "a trace is a .jsonl or a .csv file"),
    ],
)
def test_a_wrong_command_line_is_refused(args: tuple[str, ...], complaint: str) -> None:
    result = bench(*args)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_ctrl_c_prints_what_was_measured_so_far(address: str, fake: FakeInference) -> None:
    command = ("bench", "--address", address, "--duration", "600", "--rate", "50", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "coterie.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # The warm-up does not count, and the first that do are to be answered by then.
        while len(generated(fake)) < 40 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (1, "")
    assert json.loads(stdout)["num_requests"] >= 1
