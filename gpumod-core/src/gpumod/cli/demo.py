"""`gpumod demo`: a guided tour on a simulated card, in a home of its own. Exit 0 only if every expectation held."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import click

from gpumod.cli.context import CliContext
from gpumod.cli.ended import Ended, signals_raise
from gpumod.cli.failures import print_error
from gpumod.cli.lazy import command
from gpumod.cli.tour import Tour, kinds, plain_environment
from gpumod.domain.errors import ErrorInfo

CARD = "RTX 4090:24564"


@command("demo", None)
@click.option("--keep", is_flag=True, help="Keep the home of the tour, to look around in it afterwards.")
@click.pass_obj
def demo(context: CliContext, keep: bool) -> None:
    """A guided tour on a simulated 24 GB card: about a minute, nothing of yours is touched."""
    plain_environment()
    began = time.monotonic()
    try:
        tour = take(keep, quiet=context.json)
    except Ended as ended:
        print_error(ErrorInfo(code="interrupted", message=str(ended)), as_json=context.json)
        raise click.exceptions.Exit(ended.exit_code) from None
    ok = not tour.failures
    if context.json:
        seconds = round(time.monotonic() - began, 1)
        document = {"ok": ok, "chapters": tour.chapters, "failures": tour.failures, "seconds": seconds}
        click.echo(json.dumps(document, indent=2))
    else:
        verdict = "Every expectation of the tour held." if ok else "These did not hold: " + "; ".join(tour.failures)
        click.secho(f"\n{verdict} ({time.monotonic() - began:.0f} s)", bold=True, fg="green" if ok else "red")
        if ok:
            click.echo('Now your own: gpumod init --sim "My card:24564", or see the README.')
    if not ok:
        raise click.exceptions.Exit(1)


def take(keep: bool, *, quiet: bool) -> Tour:
    """Take the tour, and clean up behind it, also when it is ended by a signal: then raises Ended."""
    with signals_raise() as endings:
        tour = Tour(Path(tempfile.mkdtemp(prefix="gpumod-demo-")), quiet=quiet)
        try:
            try:
                if ready(tour):
                    walk(tour)
            finally:
                endings.hold()
        finally:
            clean_up(tour, keep)
    return tour


def ready(tour: Tour) -> bool:
    """Make the home, with a simulated card."""
    tour.chapter("A machine", "A home of its own, with a simulated RTX 4090. Real processes, ports and HTTP; no GPU.")
    code = tour.show("init", "--sim", CARD, "--yes")
    tour.expect("the home is ready", code == 0)
    if code == 0:
        tour.free_ports()
    return code == 0


def walk(tour: Tour) -> None:
    """The chapters."""
    tour.chapter("Modes", "A mode names what runs together. Presets bring some.")
    tour.show("mode", "list")
    tour.expect("code, rag, speak and blank are there", modes_there(tour))

    tour.chapter("A switch", "gpumod plans first, then starts what the mode wants, side by side where memory allows.")
    tour.expect("the switch to code is done", tour.show("switch", "code") == 0)
    tour.show("status", "--visual")
    tour.expect("both services run", set(tour.running()) == {"embedding-code", "glm-code"})
    tour.expect("glm-code answers a completion", tour.completes("glm-code"))

    misfit(tour)
    killed(tour)

    tour.chapter("Taking turns", "In rag, hyde, reranker and chat share the rest of the card: asleep until needed.")
    tour.expect("hyde wakes", tour.show("service", "wake", "hyde") == 0)
    tour.expect("and answers", tour.completes("hyde"))
    tour.expect("hyde sleeps again", tour.show("service", "sleep", "hyde") == 0)

    tour.chapter("Nothing left", "blank stops everything; every MiB is back.")
    tour.expect("the switch to blank is done", tour.show("switch", "blank") == 0)
    tour.expect("no service is up", not tour.running())
    tour.expect("no memory is held", not tour.allocations())
    tour.show("history", "list")


def modes_there(tour: Tour) -> bool:
    return {"code", "rag", "speak", "blank"} <= {mode["id"] for mode in tour.ask("mode", "list")["modes"]}


def misfit(tour: Tour) -> None:
    """What does not fit is said before anything is stopped, with what would fit."""
    tour.chapter(
        "What does not fit", "A reranker beside code? gpumod says so before anything is touched, and what would."
    )
    code = tour.show("simulate", "--mode", "code", "--add", "reranker", "--visual")
    tour.expect("it does not fit (exit status 3)", code == 3)
    result = tour.ask("simulate", "--mode", "code", "--add", "reranker")
    tour.expect("it says by how much: 3548 MiB", result["gpus"][0]["exceeds_by_mb"] == 3548)
    alternatives = result["alternatives"]
    tour.expect("at least three kinds of alternatives fit", len(kinds(alternatives)) >= 3)
    smaller = next((a for a in alternatives if a["kind"] == "smaller-preset"), None)
    tour.expect("one of them is a smaller reranker", smaller is not None)
    if smaller is not None:
        tour.expect("it can be taken by its id", tour.show("switch", "code", "--with", smaller["id"]) == 0)
        tour.expect("reranker-base runs beside code", tour.running().get("reranker-base") == "running")


def killed(tour: Tour) -> None:
    """gpumod itself is killed in the middle of a switch, and the next one puts it right."""
    tour.chapter(
        "Killed in the middle", "kill -9 on gpumod while it switches to rag: the journal knows, and so do you."
    )
    code = tour.cut_off(tour.home / "logs" / "hyde.log", "switch", "rag")
    tour.expect("it was killed", code == -9)
    tour.expect("another change is refused (exit status 7)", tour.show("switch", "blank") == 7)
    tour.expect("recover --resume finishes the switch", tour.show("recover", "--resume") == 0)
    states = tour.running()
    tour.expect("rag is whole", tour.ask("mode", "status", "rag")["whole"] and states.get("hyde") == "sleeping")


def clean_up(tour: Tour, keep: bool) -> None:
    """Stop what the tour started and remove its home."""
    if tour.running_or_open():
        tour.ask("recover", "--rollback")
        tour.ask("switch", "blank")
    if not keep:
        shutil.rmtree(tour.home, ignore_errors=True)
    elif not tour.quiet:
        click.echo(f"The home of the tour is kept: gpumod --home {tour.home} status")
