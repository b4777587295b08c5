"""`coterie chat`: a conversation, or one question."""

import click

from coterie.cli.answer import show_response
from coterie.cli.client_options import ClientOptions, client_options
from coterie.cli.conversation import Conversation
from coterie.cli.sampling_options import sampling_options
from coterie.cli.stdin_text import text_or_stdin
from coterie.sampling import Sampling


@click.command("chat")
@click.option("--message", metavar="TEXT", help="Ask this once and end; `-`: standard input.")
@click.option("--system", metavar="TEXT", help="What the model is told beforehand.")
@click.option("--no-stream", is_flag=True, help="Print the one answer when it is complete.")
@sampling_options
@client_options
def chat_command(
    message: str | None,
    system: str | None,
    no_stream: bool,
    client_options: ClientOptions,
    sampling: Sampling,
) -> None:
    """Talk to a model. It remembers the conversation until you leave.

    Ctrl-C stops an answer, Ctrl-D ends. Type /help for what else there is.
    Where standard input is no terminal, each of its lines is a message.

    \b
    Examples:
      coterie chat
      coterie chat --system "Answer in one sentence." --temperature 0.3
      coterie chat --message "What is a circle of experts?"
      coterie chat --message - --max-tokens 200 < question.txt
    """
    is_several = (sampling.n or 1) > 1
    if message is None and (is_several or no_stream):
        raise click.UsageError("-n and --no-stream are for one question; add --message TEXT")
    with client_options.open() as client:
        conversation = Conversation(client, client_options, sampling, system)
        if message is None:
            conversation.run()
        elif no_stream or (is_several and not client_options.is_json):
            response = client.chat_unary(
                conversation.with_message(text_or_stdin(message)),
                model=client_options.model,
                timeout_s=client_options.timeout_s,
                sampling=sampling,
            )
            show_response(response, is_json=client_options.is_json)
        else:
            conversation.ask(text_or_stdin(message))
