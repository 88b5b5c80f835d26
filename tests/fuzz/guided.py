"""`python -m tests.fuzz.guided TARGET FOLDER SECONDS`: fuzz one target under atheris until a finding.

Exits with 0 if the time ends without one. Inputs that reach new code are saved in FOLDER/corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fitserve", "services.predict", "yaml", "json", "csv"]):
    from tests.fuzz import targets
    from tests.fuzz.seeds import REGRESSIONS, SEEDS

LONGEST = {"table": 2048, "sniffer": 2048}


def main() -> None:
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    corpus, artifacts = folder / "corpus" / name, folder / "findings"
    for created in (corpus, artifacts):
        created.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate([*SEEDS[name], *REGRESSIONS[name].values()]):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-max_len={LONGEST.get(name, 4096)}"]
    arguments += [f"-artifact_prefix={artifacts}/{name}-", "-timeout=20", "-rss_limit_mb=3000", "-verbosity=1"]
    arguments += ["-print_final_stats=1", "-report_slow_units=5"]
    atheris.Setup(arguments, lambda data: (targets.attempt(name, data), None)[1])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
