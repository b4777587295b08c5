"""One request under way: admitted, and resumed where its engine replica is lost."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from deployments.gateway.admission_gate import Admitting
from deployments.gateway.resume import ResumableCall, Resume
from deployments.gateway.served_model import ServedModel
from deployments.types import Call, Delta, RequestId


class ClusterGeneration:
    """One admitted request; see `deployments.gateway.service.Generation`."""

    def __init__(
        self,
        name: str,
        served: ServedModel,
        call: Call,
        timeout_s: float,
        admission: Admitting,
    ) -> None:
        self.request_id = RequestId(call.request_id)
        self.model = name
        self.num_prompt_tokens = len(call.token_ids)
        self.queue_s = 0.0
        self.has_begun = False
        self.resumes: Sequence[Resume] = ()
        self._served = served
        self._call = call
        self._timeout_s = timeout_s
        self._admission = admission

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Pieces of the outputs; the first step of the iteration waits for admission."""
        asked_s = time.monotonic()
        async with self._admission(self._timeout_s) as admitted:
            self.queue_s = time.monotonic() - asked_s
            left_s = self._timeout_s - self.queue_s
            resumable = ResumableCall(self._served, self._call, self._served.max_resumes)
            self.resumes = resumable.resumes
            async with aclosing(resumable.deltas(left_s, self._set_begun)) as deltas:
                async for delta in deltas:
                    if admitted is not None:
                        admitted.count_outputs(len(delta.token_ids))
                    yield delta

    def _set_begun(self, has_begun: bool) -> None:
        self.has_begun = has_begun
