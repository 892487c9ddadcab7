"""Turns, as a queue: whoever comes and goes, at most one service of those that share a place has its turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.turns import Ticket, in_the_way

PLACES = {service: frozenset({service}) for service in ("hyde", "reranker", "chat")}
PLACES["tool"] = PLACES["hyde"]  # which it needs
SERVICES = [*sorted(PLACES), "tts"]


def ticket(number: int, service: str, began_at: float | None = None) -> Ticket:
    asked = {"holder": "ann", "pid": number, "identity": str(number), "asked_at": float(number)}
    return Ticket(id=f"t{number}", number=number, service=service, began_at=began_at, **asked)


@given(moves=st.lists(st.tuples(st.sampled_from(SERVICES), st.integers(0, 3)), max_size=60))
def test_one_service_at_a_time_in_the_order_of_the_tickets_and_everybody_in_the_end(
    moves: list[tuple[str, int]],
) -> None:
    queue: list[Ticket] = []
    begun: list[int] = []

    def let_begin() -> None:
        for n, waiting in enumerate(queue):
            if waiting.began_at is None and not in_the_way(waiting, queue, PLACES):
                queue[n] = waiting.model_copy(update={"began_at": 1.0})
                begun.append(waiting.number)
        assert len({PLACES[t.service] for t in queue if t.began_at is not None and t.service in PLACES}) <= 1

    for number, (service, ends) in enumerate(moves):
        queue.append(ticket(number, service))
        let_begin()
        for _ in range(ends):
            holding = [t for t in queue if t.began_at is not None]
            if holding:
                queue.remove(holding[0])  # it is given back, or its holder is gone
                let_begin()
    while queue:
        holding = [t for t in queue if t.began_at is not None]
        assert holding, "everybody waits for somebody"
        queue.remove(holding[0])
        let_begin()
    shared = [number for number in begun if moves[number][0] in PLACES]
    assert shared == sorted(shared)
    assert sorted(begun) == list(range(len(moves)))


def test_several_share_a_turn_but_nobody_passes_one_who_waits_for_another() -> None:
    first, second, other, third = (ticket(1, "hyde", 1.0), ticket(2, "hyde"), ticket(3, "chat"), ticket(4, "hyde"))
    queue = [first, second, other, third]
    assert in_the_way(second, queue, PLACES) == ()
    assert in_the_way(other, queue, PLACES) == (first, second)
    assert in_the_way(third, queue, PLACES) == (other,)
    assert in_the_way(ticket(5, "tts"), queue, PLACES) == ()
    assert in_the_way(ticket(5, "tool"), [first], PLACES) == ()
    assert in_the_way(ticket(5, "tool"), queue, PLACES) == (other,)
    assert in_the_way(ticket(5, "tool"), queue, PLACES, inside={"t1"}) == ()
    both = {**PLACES, "combo": PLACES["hyde"] | PLACES["chat"]}
    outer = ticket(1, "combo", 1.0)
    assert in_the_way(ticket(2, "hyde"), [outer], both, inside={"t1"}) == ()
    assert in_the_way(ticket(2, "reranker"), [outer], both, inside={"t1"}) == (outer,)
