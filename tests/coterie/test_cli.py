"""The commands of `coterie` that use a cluster, against a server that speaks the protocol."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coterie import errors
from coterie.cli.console import EXIT_CODES, exit_code_of, hint_of, out, report, write
from coterie.cli.conversation import Conversation
from coterie.cli.main import SECTIONS, cli
from coterie.cli.pace import Pace
from coterie.hints import hinted
from coterie.types import Chunk, Usage
from tests.builders.fake_inference import REPLY, FakeInference


def coterie(*args: str, address: str = "", stdin: str | None = None) -> Result:
    env = {"COTERIE_ADDRESS": address or None, "COTERIE_DEBUG": None}
    return CliRunner().invoke(cli, args, input=stdin, env=env)


def test_generate_prints_the_answer_and_nothing_else(address: str) -> None:
    result = coterie("generate", "Once", address=address)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{REPLY}\n", "")


def test_generate_reads_the_prompt_from_standard_input(
    address: str, fake: FakeInference
) -> None:
    coterie("generate", "-", address=address, stdin="Once\nupon\n")
    assert fake.requests[-1].text == "Once\nupon"


def test_token_ids_can_be_piped_from_tokenize_to_generate(
    address: str, fake: FakeInference
) -> None:
    tokens = coterie("tokenize", "Once", address=address).stdout
    assert tokens == "79 110 99 101\n"
    coterie("generate", "--token-ids", "-", address=address, stdin=tokens)
    assert list(fake.requests[-1].token_ids.ids) == [79, 110, 99, 101]


def test_json_prints_one_chunk_a_line_and_the_usage_in_the_last(address: str) -> None:
    result = coterie("generate", "Once", "--json", "--max-tokens", "3", address=address)
    chunks = [json.loads(line) for line in result.stdout.splitlines()]
    assert [chunk["text"] for chunk in chunks] == ["t", "h", "e"]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert chunks[-1]["usage"] == {
        "num_prompt_tokens": 4,
        "num_output_tokens": 3,
        "num_cached_tokens": 0,
    }


def test_json_without_streaming_prints_the_whole_response(address: str) -> None:
    args = ("generate", "Once", "--json", "--no-stream", "-n", "2")
    response = json.loads(coterie(*args, address=address).stdout)
    assert [output["text"] for output in response["outputs"]] == [REPLY, REPLY]


def test_several_outputs_are_printed_one_after_the_other(address: str) -> None:
    result = coterie("generate", "Once", "-n", "2", "--max-tokens", "5", address=address)
    assert result.stdout == "[1/2]\nthere\n[2/2]\nthere\n"


def test_every_sampling_option_reaches_the_cluster(
    address: str, fake: FakeInference, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    options = (
        "--max-tokens 3 --min-tokens 1 --temperature 0 --top-p 0.5 --top-k 4 --min-p 0.25 "
        "--presence-penalty 1 --frequency-penalty -1 --repetition-penalty 2 --seed -7 "
        "--logprobs 0 -n 1 --stop a --stop b --stop-token-id 5 --ignore-eos "
        f"--logit-bias 4=-1.5 --json-schema {schema}"
    )
    assert coterie("generate", "x", *options.split(), address=address).exit_code == 0
    sent = fake.requests[-1].sampling
    assert {field.name: value for field, value in sent.ListFields()} == {
        "max_tokens": 3,
        "min_tokens": 1,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 4,
        "min_p": 0.25,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 2.0,
        "seed": -7,
        "logprobs": 0,
        "n": 1,
        "stop": ["a", "b"],
        "stop_token_ids": [5],
        "ignore_eos": True,
        "logit_bias": {4: -1.5},
        "structured_output": sent.structured_output,
    }
    assert sent.structured_output.json_schema == '{"type": "object"}'


def test_options_that_are_not_given_are_not_sent(address: str, fake: FakeInference) -> None:
    coterie("generate", "x", address=address)
    assert fake.requests[-1].sampling.ListFields() == []


def test_a_schema_that_is_no_json_is_refused_before_anything_is_sent(
    address: str, fake: FakeInference, tmp_path: Path
) -> None:
    path = tmp_path / "schema.json"
    path.write_text("{")
    result = coterie("generate", "x", "--json-schema", str(path), address=address)
    assert (result.exit_code, fake.requests) == (2, [])
    assert "is no JSON" in result.stderr


@pytest.mark.parametrize("option", ["--json-schema", "--grammar"])
@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff{}", "is no text")]
)
def test_a_file_without_a_form_is_refused_and_no_free_output_asked_for(
    fake: FakeInference, tmp_path: Path, option: str, content: bytes, words: str
) -> None:
    path = tmp_path / "form"
    path.write_bytes(content)
    result = coterie("generate", "x", option, str(path), address="127.0.0.1:1")
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_chat_asks_once_and_ends(address: str, fake: FakeInference) -> None:
    args = ("chat", "--message", "Hello", "--system", "Be brief.")
    assert coterie(*args, address=address).stdout == f"{REPLY}\n"
    sent = [(message.role, message.content) for message in fake.requests[-1].messages]
    assert sent == [("system", "Be brief."), ("user", "Hello")]


def test_chat_remembers_the_conversation_and_sends_every_line_of_a_pipe(
    address: str, fake: FakeInference
) -> None:
    args = ("chat", "--max-tokens", "5", "--system", "Be brief.")
    result = coterie(*args, address=address, stdin="One\n\n/exit\n")
    assert (result.exit_code, result.stdout) == (0, "there\nthere\n")
    sent = [[message.content for message in each.messages] for each in fake.requests]
    assert sent == [["Be brief.", "One"], ["Be brief.", "One", "there", "/exit"]]


def test_ctrl_c_ends_a_chat_from_a_pipe(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stopped(conversation: Conversation, text: str) -> None:
        asked.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "ask", stopped)
    result = coterie("chat", address=address, stdin="One\nTwo\n")
    assert (result.exit_code, asked) == (1, ["One"])


def test_models_are_a_table_for_people_and_json_for_scripts(address: str) -> None:
    table = [line.split() for line in coterie("models", address=address).stdout.splitlines()]
    assert table[0] == ["NAME", "CONTEXT", "REPLICAS", "CHAT", "MODEL"]
    assert table[1] == ["fake", "2048", "1", "yes", "made-up"]
    lines = coterie("models", "--json", address=address).stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["fake", "fake-adapter"]


def test_brackets_of_others_are_shown_as_they_are(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out().print("see [/red] :bug:")
    report(errors.ConfigError("keys[0] [/x]"))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("see [/red] :bug:\n", "error: keys[0] [/x]\n")


def test_detokenize_takes_what_tokenize_prints_in_either_form(address: str) -> None:
    found = json.loads(coterie("tokenize", "Hi", "--json", address=address).stdout)
    assert found == {"token_ids": [72, 105], "num_tokens": 2, "max_model_len": 2048}
    for form in ("72 105", "72,105", "[72, 105]"):
        assert coterie("detokenize", "-", address=address, stdin=form).stdout == "Hi\n"


def test_token_ids_that_are_no_numbers_are_refused(address: str) -> None:
    result = coterie("detokenize", "7", "x", address=address)
    assert result.exit_code == 2
    assert "token ids are numbers" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgumentError("fix it"), 2),
        (errors.UnknownModelError("fix it"), 2),
        (errors.CapacityError("fix it"), 4),
        (errors.NoReplicaError("fix it"), 4),
        (errors.DeadlineError("fix it"), 5),
        (errors.EngineError("fix it"), 1),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    error: errors.CoterieError, code: int, address: str, fake: FakeInference
) -> None:
    fake.failure = error
    result = coterie("chat", "--message", "x", address=address)
    assert result.exit_code == code
    assert result.stderr.startswith("error: fix it\nhint: ")


def test_an_engine_failure_leaves_what_was_printed_before_it(
    address: str, fake: FakeInference
) -> None:
    fake.failure, fake.fail_after = errors.EngineError("the engine died"), 5
    result = coterie("generate", "x", address=address)
    assert (result.exit_code, result.stdout) == (1, "there\n")


def test_a_cluster_that_is_away_is_exit_code_3(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    result = coterie("models", "--address", address)
    assert result.exit_code == 3
    assert f"no Coterie cluster answers at {address}; start one with `coterie up`" in (
        result.stderr
    )


def test_a_timeout_is_exit_code_5(address: str, fake: FakeInference) -> None:
    fake.hold_after = 1
    result = coterie("generate", "x", "--timeout", "2", address=address)
    assert (result.exit_code, result.stdout) == (5, "t\n")


@pytest.mark.parametrize(
    "args", [("generat",), ("generate",), ("generate", "x", "--max-token")]
)
def test_a_wrong_command_line_is_exit_code_2_and_names_the_help(args: tuple[str, ...]) -> None:
    result = coterie(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "--help` tells how to call it" in result.stderr


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    assert "'generate'" in coterie("generat").stderr


def test_an_unforeseen_failure_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coterie.cli.client_options.ClientOptions.open", lambda self: 1 / 0)
    result = coterie("models")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: division by zero\nhint: COTERIE_DEBUG=1")
    with pytest.raises(ZeroDivisionError):
        CliRunner(catch_exceptions=False).invoke(cli, ["models"], env={"COTERIE_DEBUG": "1"})


def test_the_overview_names_every_command_and_every_exit_code() -> None:
    text = coterie("--help").stdout
    assert all(name in text for section in SECTIONS.values() for name in section)
    assert all(f"{code}  {meaning}" in text for code, meaning in EXIT_CODES.items())


@pytest.mark.parametrize("name", SECTIONS["Use a cluster"])
def test_every_client_command_explains_itself_with_examples(name: str) -> None:
    result = coterie(name, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    where = "COTERIE_URL" if name == "batch" else "COTERIE_ADDRESS"
    assert where in result.stdout


def test_a_missing_serving_package_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'ray.serve'", name="ray.serve")

    monkeypatch.setattr("coterie.cli.lazy.importlib.import_module", fail)
    result = coterie("up")
    assert result.exit_code == 2
    assert "`coterie up` needs the package 'ray'" in result.stderr


def test_a_hint_of_the_place_that_raises_comes_before_that_of_the_class() -> None:
    plain = errors.UnavailableError("away")
    assert hint_of(plain) == "if it runs elsewhere, name it: --address HOST:PORT"
    assert hint_of(hinted(plain, "name it: --url URL")) == "name it: --url URL"
    assert hint_of(errors.ConfigError("no such key")) is None


def test_a_wrong_configuration_names_the_help_of_configurations(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("modles: []\n")
    result = coterie("config", "-f", str(path))
    assert result.exit_code == 2
    assert "hint: `coterie config --help` explains the configuration file" in result.stderr


def test_ctrl_c_in_up_names_what_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coterie.cli.up._prepare", stopped)
    result = coterie("up")
    assert result.exit_code == 1
    assert "`coterie status` shows it, `coterie down` ends it" in result.stderr


def test_errors_of_no_class_of_ours_are_exit_code_1() -> None:
    assert exit_code_of(ValueError("x")) == 1


def test_a_pipe_gets_the_text_as_it_is_and_a_terminal_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\x1b[2J\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\\x1b[2J\n"


def test_the_pace_is_told_from_the_first_chunk_on() -> None:
    times = iter([10.0, 10.5, 11.0, 12.5])
    pace = Pace(lambda: next(times))
    for token_ids in ((1,), (2, 3), (4, 5)):
        pace.add(Chunk("r", "m", 0, "", token_ids))
    assert pace.summary(Usage(7, 5, 2)) == (
        "7 prompt tokens (2 cached), 5 tokens, first after 0.50 s, 2.0 tokens/s"
    )


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("0.0.0.0", "localhost"),
        ("[::1]", "localhost"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "[fd00::1]"),
        ("[fd00::1]", "[fd00::1]"),
        ("gateway.local", "gateway.local"),
    ],
)
def test_up_tells_an_address_that_can_be_pasted(host: str, told: str) -> None:
    from coterie.cli.up import reachable  # noqa: PLC0415  (imports the server's parts)

    assert reachable(host) == told
