"""`coterie tokenize` and `coterie detokenize`: between text and token ids."""

import click

from coterie.cli import console
from coterie.cli.client_options import ClientOptions, client_options
from coterie.cli.stdin_text import text_or_stdin, token_ids_of
from coterie.requests import Messages
from coterie.types import Message


@click.command("tokenize")
@click.argument("text")
@click.option("--chat", is_flag=True, help="As a user's message, through the chat template.")
@click.option("--no-special-tokens", is_flag=True, help="The text alone.")
@client_options
def tokenize_command(
    text: str, chat: bool, no_special_tokens: bool, client_options: ClientOptions
) -> None:
    """Print the token ids of TEXT, exactly as the model would see them.

    `-` reads TEXT from standard input.

    \b
    Examples:
      coterie tokenize "Once upon a time"
      coterie tokenize --json - < prompt.txt | jq .num_tokens
    """
    content = text_or_stdin(text)
    asked: Messages = [Message("user", content)] if chat else content
    with client_options.open() as client:
        found = client.tokenize(
            asked,
            model=client_options.model,
            with_special_tokens=not no_special_tokens,
            timeout_s=client_options.timeout_s,
        )
    num_tokens = len(found.token_ids)
    if client_options.is_json:
        console.print_json(
            {
                "token_ids": found.token_ids,
                "num_tokens": num_tokens,
                "max_model_len": found.max_model_len,
            }
        )
    else:
        console.write(" ".join(map(str, found.token_ids)) + "\n")
        console.note(f"{num_tokens} of at most {found.max_model_len} tokens")


@click.command("detokenize")
@click.argument("token_ids", nargs=-1, required=True)
@click.option("--skip-special-tokens", is_flag=True, help="Leave special tokens out.")
@client_options
def detokenize_command(
    token_ids: tuple[str, ...], skip_special_tokens: bool, client_options: ClientOptions
) -> None:
    """Print the text of TOKEN_IDS, numbers between blanks or commas.

    `-` reads them from standard input.

    \b
    Examples:
      coterie detokenize 504 2736 12
      coterie tokenize "Once upon a time" | coterie detokenize -
    """
    ids = token_ids_of(text_or_stdin(" ".join(token_ids)))
    with client_options.open() as client:
        text = client.detokenize(
            ids,
            model=client_options.model,
            skip_special_tokens=skip_special_tokens,
            timeout_s=client_options.timeout_s,
        )
    if client_options.is_json:
        console.print_json({"text": text})
    else:
        console.write(f"{text}\n")
