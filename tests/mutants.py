"""Mutation testing: does a test fail when the code is changed? `python tests/mutants.py [module...]`, resumable.

cosmic-ray changes one place of a module at a time and runs the tests that answer for it. It writes into the sources, so it is
given a copy of them; `out/mutants/` holds the copy and a session per module, and another run goes on where the last one stopped.
The mutants that no test noticed are listed at the end.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "mutants"
TREE = OUT / "tree"

TESTS = {
    "attcat/methods/attention.py": "tests/test_methods.py tests/test_truth.py",
    "attcat/methods/cat.py": "tests/test_methods.py -k cat",
    "attcat/methods/contrast.py": "tests/test_methods.py -k contrast_cat",
    "attcat/methods/odds.py": "tests/test_oddscat.py",
    "attcat/methods/propagation.py": "tests/test_methods.py tests/test_relevance.py",
    "attcat/capture/attention.py": "tests/test_methods.py tests/test_truth.py tests/test_speed_paths.py",
    "attcat/capture/blocks.py": "tests/test_faults.py tests/test_methods.py",
    "attcat/capture/linearised.py": "tests/test_rules.py tests/test_graded.py",
    "attcat/capture/randomness.py": "tests/test_threads.py",
    "attcat/capture/relevance.py": "tests/test_relevance.py",
    "attcat/capture/rules.py": "tests/test_rules.py tests/test_graded.py tests/test_truth.py",
    "attcat/capture/torch_calls.py": "tests/test_rules.py tests/test_truth.py tests/test_faults.py",
    "attcat/capture/twin.py": "tests/test_threads.py tests/test_faults.py",
    "attcat/trace/checks.py": "tests/test_truth.py tests/test_methods.py",
    "attcat/trace/passes.py": "tests/test_oddscat.py tests/test_methods.py",
    "attcat/trace/recording.py": "tests/test_truth.py tests/test_methods.py tests/test_faults.py",
    "attcat/trace/values.py": "tests/test_values.py tests/test_methods.py",
}
"""From a module to the tests that answer for it; the whole suite after each change would take weeks."""

CONFIGURATION = """[cosmic-ray]
module-path = "{module}"
timeout = 600.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider -p no:randomly {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def copied() -> None:
    """The tracked files as they are now, where there is no copy yet."""
    if TREE.exists():
        return
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)


def tool(name: str, *arguments: str) -> str:
    """One of cosmic-ray's programs, in the copy; its results."""
    program = Path(sys.executable).with_name(name)
    command = [str(program) if program.exists() else name, *arguments]
    done = subprocess.run(command, cwd=TREE, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def tried(module: str) -> None:
    """Every mutant of a module that was not tried yet, then the figures."""
    stem = module.replace("/", "-").removesuffix(".py")
    configuration, session = OUT / f"{stem}.toml", OUT / f"{stem}.sqlite"
    configuration.write_text(CONFIGURATION.format(module=module, python=sys.executable, tests=TESTS[module]))
    if not session.exists():
        tool("cosmic-ray", "baseline", str(configuration))
        tool("cosmic-ray", "init", str(configuration), str(session))
    tool("cosmic-ray", "exec", str(configuration), str(session))
    print(f"== {module}\n{tool('cr-report', str(session), '--show-diff', '--surviving-only')}", flush=True)


def main() -> None:
    """The modules that are named, or all."""
    OUT.mkdir(parents=True, exist_ok=True)
    copied()
    for module in sys.argv[1:] or TESTS:
        tried(module)


if __name__ == "__main__":
    main()
