"""Fetch what the starts of a plan need from elsewhere (an image), before anything is stopped for them."""

from __future__ import annotations

import asyncio
import logging

from gpumod.domain.errors import ErrorInfo, GpumodError
from gpumod.domain.plan import Step
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import Handle, StepStatus
from gpumod.domain.states import Action
from gpumod.engine.context import RunContext
from gpumod.ports import Fetches

log = logging.getLogger(__name__)


async def fetch(ctx: RunContext) -> ErrorInfo | None:
    """None when all is there, else why not. One after the other, given up at an interrupt.

    The way back fetches nothing: it starts what was there.
    """
    for step in () if ctx.going_back else ctx.plan.steps:
        if step.action is Action.START and not ctx.services[step.service].host and not ctx.interrupt.is_set():
            called, fetching = asyncio.ensure_future(ctx.interrupt.wait()), asyncio.ensure_future(_fetch(ctx, step))
            try:
                await asyncio.wait({called, fetching}, return_when=asyncio.FIRST_COMPLETED)
                if fetching.done() and (error := fetching.result()) is not None:
                    return error
            finally:
                called.cancel()
                fetching.cancel()
                await asyncio.gather(called, fetching, return_exceptions=True)
    return None


async def _fetch(ctx: RunContext, step: Step) -> ErrorInfo | None:
    machine, service = ctx.machine, ctx.services[step.service]
    name = machine.supervisor_name(service)
    supervisor = machine.supervisor(name)
    if not isinstance(supervisor, Fetches):
        return None

    def tell(text: str) -> None:
        ctx.report(
            Progress(kind=ProgressKind.WAITING, run_id=ctx.run_id, step=step, step_status=StepStatus.PENDING, text=text)
        )

    try:
        handle = Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=ctx.snapshot.at)
        await supervisor.fetch(handle, tell)
    except GpumodError as failure:
        return failure.info
    except Exception as failure:  # a stranger's supervisor must turn the run back, never leave it open
        log.exception("what %s needs could not be fetched", step.service)
        return ErrorInfo(
            code="internal",
            message=f"what {step.service} needs could not be fetched: {type(failure).__name__}: {failure}",
            hint=f"this is a bug of the supervisor {name}; run it with --debug",
        )
    return None
