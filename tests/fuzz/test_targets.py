"""A short form of fuzzing: seeds, earlier findings, and hypothesis's variations of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import REGRESSIONS, SEEDS
from tests.fuzz.targets import TARGETS, attempt

EXAMPLES = {"table": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_some_seeds_are_accepted(name: str) -> None:
    outcomes = [attempt(name, seed) for seed in SEEDS[name]]
    assert "accepted" in outcomes, outcomes


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in REGRESSIONS.items() for case in cases])
def test_earlier_findings_stay_fixed(name: str, case: str) -> None:
    attempt(name, REGRESSIONS[name][case])


@st.composite
def variations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a seed with pieces removed, doubled, replaced, or copied from another seed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        other = draw(st.sampled_from(seeds))
        at = draw(st.integers(0, len(other)))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from([b'"', b",", b"\n", b"\0", b"\xff", b"[" * 70, b"1e999", b"{}", b"-1", b"null", b"\r"]),
                st.just(bytes(data[start:end]) * 2),
                st.just(other[at : at + 10]),
            )
        )
        data[start:end] = piece
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_variations_are_accepted_or_rejected(name: str) -> None:
    @settings(max_examples=EXAMPLES.get(name, 250), deadline=None, suppress_health_check=list(HealthCheck))
    @given(variations(SEEDS[name]))
    def run(data: bytes) -> None:
        attempt(name, data)

    run()
