"""Distilling as the command sees it: light until there is work to do."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from deployments.models.appearing import appearing
from deployments.models.distill.prompts import Prompts
from deployments.models.distill.report import DistillReport
from deployments.models.distill.settings import DistillSettings
from deployments.models.distill.workplace import workplace
from infra.progress import Progress

# Opens and closes a stage of that name.
Stage = Callable[[str], AbstractContextManager[None]]


def distill_into(
    out_dir: Path,
    source: Path,
    prompts: Prompts,
    settings: DistillSettings,
    progress: Progress,
    stage: Stage,
) -> DistillReport:
    """Make `out_dir` a draft for the model of the checkpoint in the directory `source`.

    Goes on with what an earlier call for the same left, and leaves its own for a later one
    if it is interrupted. Raises `ConfigError` if there is something at `out_dir`, if
    other settings, prompts or another model were begun with, or if no draft can be made.
    """
    with workplace(out_dir, _identity(source, prompts, settings)) as place:
        with stage("loading the target"):
            # Imported here because torch and transformers take 5 s to import.
            from deployments.models.distill.distill import Distillation  # noqa: PLC0415

            work = Distillation(source, place, settings, progress)
        with stage("answers of the target"):
            work.ask(prompts)
        with stage("training the draft"):
            draft = work.train()
        with stage("measuring the acceptance"), appearing(out_dir) as partial:
            return work.finish(draft, partial, prompts.origin)


def _identity(
    source: Path, prompts: Prompts, settings: DistillSettings
) -> Mapping[str, object]:
    """What must be the same for an interrupted work to go on; the time may be another."""
    chosen = asdict(settings)
    del chosen["minutes"]
    return {"target": str(source), "prompts": prompts.sha256(), **chosen}
