"""What `coterie status` shows of experts on hosts."""

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from coterie.cli.expert_heat import LEVELS, heat_rows
from coterie.cli.expert_status import print_tier
from experts.director.director import Director
from experts.director.status import status_of
from experts.director.types import DirectorSettings
from experts.settings import RebalanceSection
from tests.experts.director.fleet import Fleet, new_host


def shown(tier: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    print_tier(console, "m", tier)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def running_tier() -> dict[str, Any]:
    director = Director(2, 4, DirectorSettings(RebalanceSection(), 2), 0.0)
    fleet = Fleet(director)
    fleet.join(new_host("a", 3, 2, 4), new_host("b", 3, 2, 4))
    fleet.run(1)
    busy = fleet.living[0]
    for number, copy in enumerate(sorted(busy.copies)):
        busy.counts[copy] += 10 * (number + 1)
    fleet.run(1)
    return status_of(director.view(fleet.now_s), fleet.now_s)


def test_the_busiest_expert_of_all_layers_is_a_full_cell() -> None:
    assert heat_rows([[0, 1, 4, 8], [8, 2, 0, 0.001]], [[1] * 4] * 2) == [
        ("0", " ▁▄█"),
        ("1", "█▂ ▁"),
    ]


def test_an_expert_without_a_copy_is_marked() -> None:
    assert heat_rows([[0, 1]], [[0, 2]]) == [("0", "!█")]
    assert heat_rows([[0, 0]], [[1, 1]]) == [("0", "  ")]


def test_what_does_not_fit_is_put_together_by_its_busiest() -> None:
    load = [[layer * expert for expert in range(5)] for layer in range(5)]
    assert heat_rows(load, [[1] * 5] * 5, max_rows=2, max_cells=3) == [
        ("0-2", "▁▃▄"),
        ("3-4", "▂▆█"),
    ]


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_the_map_is_never_larger_than_asked_and_leaves_no_layer_out(
    num_layers: int, num_experts: int, max_rows: int, max_cells: int
) -> None:
    load = [[float(e + layer) for e in range(num_experts)] for layer in range(num_layers)]
    copies = [[1] * num_experts] * num_layers
    rows = heat_rows(load, copies, max_rows, max_cells)
    assert len(rows) <= max_rows
    assert all(1 <= len(cells) <= max_cells for _, cells in rows)
    assert (rows[0][0].split("-")[0], rows[-1][0].split("-")[-1]) == ("0", str(num_layers - 1))
    assert rows[-1][1][-1] == (LEVELS[-1] if num_layers + num_experts > 2 else " ")


def test_status_shows_state_hosts_and_heat() -> None:
    lines = shown(running_tier())
    assert lines[0].startswith(
        "experts of m: settled; 2 layers of 4 experts, 6 slots a layer; "
    )
    assert lines[1].split() == [
        "host",
        "slots",
        "copies",
        "busy",
        "wait",
        "engines",
        "requests",
    ]
    assert lines[2].split()[:3] == ["a", "6", "6"]
    assert lines[3].split()[:3] == ["b", "6", "6"]
    assert lines[4].split()[0] == "layer"
    assert [line.split()[0] for line in lines[5:]] == ["0", "1"]
    assert all(line.split()[-1] == "6" for line in lines[5:])
    assert "█" in lines[6]


def test_a_tier_without_hosts_says_what_is_missing() -> None:
    director = Director(2, 4, DirectorSettings(RebalanceSection(), 2), 0.0)
    assert shown(status_of(director.view(0.0), 0.0)) == [
        "experts of m: waiting (0 of 2 expert hosts are there); 2 layers of 4 experts, 0 slots"
        " a layer"
    ]
