"""`coterie generate`: continue a prompt."""

import click

from coterie.cli.answer import show_response, show_stream
from coterie.cli.client_options import ClientOptions, client_options
from coterie.cli.sampling_options import sampling_options
from coterie.cli.stdin_text import text_or_stdin, token_ids_of
from coterie.collector import Collector
from coterie.sampling import Sampling


@click.command("generate")
@click.argument("prompt")
@click.option("--token-ids", is_flag=True, help="PROMPT is token ids, not text.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@sampling_options
@client_options
def generate_command(
    prompt: str,
    token_ids: bool,
    no_stream: bool,
    client_options: ClientOptions,
    sampling: Sampling,
) -> None:
    """Continue PROMPT, and print what follows as the model makes it.

    PROMPT is sent as it is, without a chat template; `coterie chat` is for
    conversations. `-` reads it from standard input.

    \b
    Examples:
      coterie generate "Once upon a time" --max-tokens 40
      coterie generate - --temperature 0 < prompt.txt
      coterie generate "The capital of France is" --choice Paris --choice Rome
      coterie generate "A user: " --json-schema user.schema.json
      coterie tokenize "Once upon" | coterie generate --token-ids - --max-tokens 8
      coterie generate "Hello" --json --max-tokens 3 | jq -r .text
    """
    text = text_or_stdin(prompt)
    asked = token_ids_of(text) if token_ids else text
    model, timeout_s = client_options.model, client_options.timeout_s
    is_json = client_options.is_json
    is_several = (sampling.n or 1) > 1
    with client_options.open() as client:
        if no_stream or (is_several and not is_json):
            response = client.generate_unary(
                asked, model=model, timeout_s=timeout_s, sampling=sampling
            )
            show_response(response, is_json=is_json)
        else:
            stream = client.generate(asked, model=model, timeout_s=timeout_s, sampling=sampling)
            show_stream(stream, Collector(), is_json=is_json)
