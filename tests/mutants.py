"""Mutation testing: does a test fail when the code is changed? `python tests/mutants.py [module...]`, resumable.

cosmic-ray says how a module can be changed, one place at a time. A process that has imported torch, transformers and the rest
once forks for each change; the child sees the changed source in place of the module (no file is written) and runs the tests
that come by the changed line, the cheapest and then one of each function before its other parameters, until one fails or
`--budget` seconds of tests are used up. Which tests come by, and how long they take, is measured once, by the suite under
coverage; of a test file that was edited since, by that file alone.

Changes are tried in a drawn order, so that what has been tried is a fair sample of all; `--sample 300` tries as many of all
modules together. Of a number only +1 is tried, of an operator its opposite and its neighbour. Left out are type annotations,
`strict=` of zip, which is an assertion, and abstract methods.

`out/mutants/` holds what was measured and a line per change that was tried, under the changed source's hash: another run goes
on where the last one stopped, and a module that was edited starts anew. `--again` tries the survivors once more, after tests
were added, or with a larger budget; `--write` makes docs/mutants.md of it, with the reasons for survivors that
tests/survivors.tsv gives.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "mutants"
REASONS = ROOT / "tests" / "survivors.tsv"
BUDGET = 10.0
"""Seconds of the processor that the tests for one change take, as they were measured; see `--budget`."""

SEED = 2
"""Of the sample. Another one draws changes for which no test was written yet."""

ROOMS = ("methods", "capture", "trace")
REPLACED = {
    "ReplaceBinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr",
    "ReplaceComparisonOperator": "Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt",
    "ReplaceUnaryOperator": "Delete_USub Delete_Not Delete_Invert",
}
OPERATORS = [
    *(f"core/{kind}_{pair}" for kind, pairs in REPLACED.items() for pair in pairs.split()),
    *("core/" + name for name in ["NumberReplacer", "AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd"]),
    *("core/" + name for name in ["ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "RemoveDecorator"]),
    *("core/" + name for name in ["ZeroIterationForLoop", "ReplaceContinueWithBreak", "ReplaceBreakWithContinue"]),
    "core/ExceptionReplacer",
]


class Mutant(NamedTuple):
    """A change of a module: where, what, and what stands in place of a part of its text."""

    module: str
    line: int
    last: int
    operator: str
    change: str
    start: int
    end: int
    part: str

    @property
    def source(self) -> str:
        """Of the changed module."""
        return text(self.module)[: self.start] + self.part + text(self.module)[self.end :]

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.module}\n{self.source}".encode()).hexdigest()[:20]


@functools.cache
def text(module: str) -> str:
    return (ROOT / module).read_text(encoding="utf-8")


@functools.cache
def mutants(module: str) -> list[Mutant]:
    """Every change of a module that is tried, in a drawn order; found once for a version of the module and of this file."""
    path = OUT / f"{version(module)}-{version('tests/mutants.py')}.json"
    if not path.exists():
        path.write_text(json.dumps(list({mutant.key: mutant for mutant in changes(module)}.values())), encoding="utf-8")
    found = {mutant.key: mutant for mutant in itertools.starmap(Mutant, json.loads(path.read_text(encoding="utf-8")))}
    order = [found[key] for key in sorted(found)]
    random.Random(module).shuffle(order)
    return order


def changes(module: str) -> Iterator[Mutant]:
    """One after the other; each statement of the module is parsed and changed by itself, which is quicker."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    source, at = text(module), 0
    spared = list(spared_places(ast.parse(source)))
    for part in [statement.get_code() for statement in get_ast(source).children]:
        above, at, nodes = source[:at].count("\n"), at + len(part), list(ast_nodes(get_ast(part)))
        for name in OPERATORS:
            operator = cosmic_ray.plugins.get_operator(name)()
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            for number, ((line, column), (last, until)) in enumerate(places):
                start, end = (above + line, column), (above + last, until)
                if any(first <= start and end <= final for first, final in spared):
                    continue
                if name == "core/NumberReplacer" and number % 2:
                    continue
                try:
                    mutated = mutate_code(part, operator, number)
                except AttributeError:  # cosmic-ray knows no exceptions with a dot in their name
                    continue
                if mutated is None or not differs(part, mutated):
                    continue
                change = changed_lines(part, mutated)
                if ", *, " in change and ", /, " in change:  # the mark of keywords is no product
                    continue
                kind = name.removeprefix("core/")
                yield Mutant(module, start[0], end[0], kind, change, at - len(part), at, mutated)


def spared_places(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where nothing is changed."""
    for node in ast.walk(tree):
        spared: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            spared = [
                node.returns,
                *(d for d in node.decorator_list if ast.unparse(d) in ("abstractmethod", "overload")),
            ]
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            spared = [node.annotation]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            spared = [k for k in node.keywords if k.arg == "strict"]
        for one in filter(None, spared):
            before = 1 if isinstance(one, ast.expr) and one in getattr(node, "decorator_list", ()) else 0  # the @
            yield (one.lineno, one.col_offset - before), (one.end_lineno + before, one.end_col_offset)  # type: ignore[attr-defined]


def differs(source: str, mutated: str) -> bool:
    """Whether the changed source is Python, and not the same."""
    try:
        return ast.dump(ast.parse(source)) != ast.dump(ast.parse(mutated))
    except SyntaxError:
        return False


def changed_lines(source: str, mutated: str) -> str:
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    before, after = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
    return f"{before}  ->  {after}"


# Which tests come by a line


def measured() -> None:
    """Run the suite once, to know which tests come by which lines and how long they take; then the files that were edited."""
    if not (OUT / "times.xml").exists():
        print("the whole suite is run once, under coverage", flush=True)
        run_suite("-n", "2", f"--junitxml={OUT / 'times.xml'}")
        KNOWN_FILES.write_text(json.dumps(test_files()), encoding="utf-8")
    known, now = json.loads(KNOWN_FILES.read_text(encoding="utf-8")), test_files()
    edited = [file for file, content in now.items() if known.get(file) != content]
    if edited:
        print(f"run under coverage: {' '.join(edited)}", flush=True)
        later = len(list(OUT.glob("times*.xml")))
        run_suite("--cov-append", f"--junitxml={OUT / f'times{later:03}.xml'}", *edited)
        KNOWN_FILES.write_text(json.dumps(now), encoding="utf-8")


def run_suite(*arguments: str) -> None:
    """Under coverage, which notes for each line the tests that come by."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cov", "--cov-context=test", "--cov-report="]
    # What has to be covered is asked of the suite as a whole elsewhere.
    environment = {**os.environ, "COVERAGE_FILE": str(OUT / "coverage"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    plugin = ["-p", Path(__file__).stem]  # this file, for its pytest_runtest_makereport
    subprocess.run([*command, "--cov-fail-under=0", *plugin, *arguments], cwd=ROOT, env=environment, check=False)


def used() -> float:
    """Seconds of the processor, of this process and of those it waited for."""
    return sum(os.times()[:4])


SINCE = [used()]


def pytest_runtest_makereport(call: Any) -> None:
    """Let pytest note how long the processor was busy: other programs make a test no longer."""
    call.duration, SINCE[0] = used() - SINCE[0], used()


KNOWN_FILES = OUT / "files.json"
"""The test files that were measured, with a hash of what they held."""


def test_files() -> dict[str, str]:
    """The test files of the suite, with a hash of each."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return {str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@functools.cache
def durations() -> dict[str, float]:
    """Seconds of each test, by its id; of a file that was measured again, as they are now."""
    found: dict[str, dict[str, float]] = {}
    for times in sorted(OUT.glob("times*.xml")):
        new: dict[str, dict[str, float]] = {}
        for case in ElementTree.parse(times).iter("testcase"):
            path = case.get("classname", "").replace(".", "/") + ".py"
            tests = new.setdefault(path, {})
            if not len(case):  # it neither failed nor was skipped
                tests[f"{path}::{case.get('name')}"] = float(case.get("time", 0))
        found.update(new)
    return {test: seconds for tests in found.values() for test, seconds in tests.items()}


@functools.cache
def visits(module: str) -> dict[int, set[str]]:
    """From a line to the tests that come by; 0 for the module."""
    import coverage

    data = coverage.CoverageData(str(OUT / "coverage"))
    data.read()
    path = next((p for p in data.measured_files() if p.endswith("/" + module)), None)
    lines = data.contexts_by_lineno(path) if path else {}
    known = durations()
    found: dict[int, set[str]] = {
        line: {test for test in (c.rpartition("|")[0] for c in contexts) if test in known}
        for line, contexts in lines.items()
    }
    found[0] = set().union(*found.values())
    return found


def tests_of(mutant: Mutant, budget: float) -> list[str]:
    """What is run for a change: one test of each function, then their other parameters, cheapest first."""
    lines, known = visits(mutant.module), durations()
    chosen: set[str] = set().union(*(lines.get(line, set()) for line in range(mutant.line, mutant.last + 1)))
    if not chosen:  # within a longer statement, or what is run by the import
        statement = enclosing(mutant)
        chosen = lines.get(statement, set()) or lines[0]
    by_time = sorted(chosen, key=lambda test: (known[test], test))
    places: dict[str, int] = collections.Counter()
    ranked = []
    for test in by_time:
        function = test.partition("[")[0]
        ranked.append((places[function], known[test], test))
        places[function] += 1
    # Half of the budget for the cheapest, which look at one thing; the other half for as many functions as there are.
    kept = dict.fromkeys(within(by_time, budget / 2))
    kept |= dict.fromkeys(within([test for *_, test in sorted(ranked) if test not in kept], budget / 2))
    return list(kept) or by_time[:1]


def within(tests: list[str], budget: float) -> Iterator[str]:
    """Those of the tests, in their order, that take so many seconds together."""
    for test in tests:
        if durations()[test] <= budget:
            budget -= durations()[test]
            yield test


def enclosing(mutant: Mutant) -> int:
    tree = ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= mutant.line <= (n.end_lineno or 0)]
    return max((n.lineno for n in around), default=0)


# The process that forks


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads a changed source in place of a module."""

    def __init__(self, mutant: Mutant) -> None:
        self.path, self.source = ROOT / mutant.module, mutant.source
        self.name = mutant.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        folder = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=folder)

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, str(self.path), "exec", dont_inherit=True), module.__dict__)


LOG = OUT / "last.log"
"""What the tests of the last change said."""

FIRST = 4
QUIET = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:pytest_cov"]


def warmed(files: list[str]) -> None:
    """Import what the tests import, and forget what is ours."""
    import pytest

    ours = {path.stem for path in (ROOT / "tests").glob("*.py")}
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*QUIET, "--collect-only", *files])
    for name in [n for n in sys.modules if n.partition(".")[0] == "attcat" or n.rpartition(".")[2] in ours]:
        if name not in ("__main__", "attcat-typing") and not name.startswith(("torch", "transformers", "_pytest")):
            del sys.modules[name]


def outcome(mutant: Mutant | None, tests: list[str]) -> tuple[str, float]:
    """What the tests say: "killed", "survived", "killed (time)", or of no change "survived" where all pass."""
    started, seconds = time.monotonic(), int(20 + 4 * sum(durations()[test] for test in tests))
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            log = os.open(LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(log, number)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # which other programs do not use up
            if mutant is not None:
                sys.meta_path.insert(0, Changed(mutant))
            import pytest

            # Most changes are noticed by the first tests; the files of the others are then not read.
            status = int(pytest.main([*QUIET, "-x", *tests[:FIRST]]))
            if status == 0 and tests[FIRST:]:
                status = int(pytest.main([*QUIET, "-x", *tests[FIRST:]]))
        finally:
            os._exit(status)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > started + 1200:  # it waits for something
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed (time)", time.monotonic() - started
        time.sleep(0.02)
    timely = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    said = "survived" if status == 0 else "killed (time)" if timely else "killed"
    return said, time.monotonic() - started


def drawn(modules: list[str], size: int | None) -> list[Mutant]:
    """The changes that are tried: all, module by module, or a sample of all modules together."""
    every = [mutant for module in modules for mutant in mutants(module)]
    if size is None:
        return every
    # By a hash, so that an edit of one module leaves the sample of the others as it was.
    every.sort(key=lambda mutant: hashlib.sha256(f"{SEED}{mutant.key}".encode()).digest())
    return every[:size]


def tried(modules: list[str], again: bool, size: int | None, budget: float) -> None:
    """Try what was not tried yet."""
    known = {line["key"]: line for line in results()}
    files = sorted({test.partition("::")[0] for module in modules for test in visits(module)[0]})
    warmed(files)
    for mutant in drawn(modules, size):
        before = known.get(mutant.key)
        if before and not (again and before["outcome"] == "survived"):
            continue
        tests = tests_of(mutant, budget)
        said, seconds = outcome(mutant, tests) if tests else ("survived", 0.0)
        if said != "survived" and not passing(noticed_by(tests)):
            raise SystemExit(f"these tests fail without any change: {' '.join(tests)}")
        line = {
            "key": mutant.key,
            "module": mutant.module,
            "of": version(mutant.module),
            "line": mutant.line,
            "operator": mutant.operator,
        }
        line |= {"change": mutant.change, "outcome": said, "seconds": round(seconds, 1), "tests": len(tests)}
        with (OUT / "results.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{said:14} {seconds:5.1f} s  {mutant.module}:{mutant.line}  {mutant.change}", flush=True)


def noticed_by(tests: list[str]) -> tuple[str, ...]:
    """The tests that failed for the last change; all, if none says so, as where the process died."""
    said = LOG.read_text(encoding="utf-8", errors="replace")
    failed = [test for test in tests if re.search(rf"^(FAILED|ERROR) {re.escape(test)}( - |$)", said, re.MULTILINE)]
    return tuple(failed or tests)


@functools.cache
def passing(tests: tuple[str, ...]) -> bool:
    """Whether tests pass without any change, looked at once for each."""
    new = [test for test in tests if test not in SOUND]
    if new and outcome(None, new)[0] != "survived":
        return False
    SOUND.update(new)
    return True


SOUND: set[str] = set()


def results() -> list[dict[str, Any]]:
    """The last outcome of each change."""
    path = OUT / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return list({line["key"]: line for line in lines}.values())


# What came out


def reasons() -> dict[tuple[str, str], str]:
    """Why a survivor is left: by module and change."""
    lines = REASONS.read_text(encoding="utf-8").splitlines() if REASONS.exists() else []
    rows = [line.split("\t") for line in lines if line]
    return {(module, change): reason for module, change, reason in rows}


def report(modules: list[str], size: int | None) -> str:
    """A table of the modules as they are now, and the survivors with their reasons, in Markdown."""
    known = {line["key"]: line for line in results()}
    lines = [known[mutant.key] for mutant in drawn(modules, size) if mutant.key in known]
    why, rows = reasons(), []
    for module in modules:
        seen = [line for line in lines if line["module"] == module]
        if seen:
            rows.append(row(module, len(mutants(module)), seen))
    rows.append(row("all", sum(len(mutants(module)) for module in modules), lines))
    left = sorted((one["module"], one["line"], one["change"]) for one in lines if one["outcome"] == "survived")
    survivors = [
        f"| {module} | {code(change)} | {why.get((module, change), 'not looked at')} |" for module, _, change in left
    ]
    table = "\n".join(["| Module | Changes | Tried | Killed | Share |\n|---|---|---|---|---|", *rows])
    listed = "\n".join(["| Module | What no test noticed | Why |", "|---|---|---|", *survivors])
    return f"{table}\n\n## Survivors\n\n{listed}\n"


def version(module: str) -> str:
    """Of a module's source."""
    return hashlib.sha256((ROOT / module).read_bytes()).hexdigest()[:20]


def row(name: str, count: int, seen: list[dict[str, Any]]) -> str:
    killed = sum(line["outcome"] != "survived" for line in seen)
    return f"| {name} | {count} | {len(seen)} | {killed} | {f'{killed / len(seen):.0%}' if seen else ''} |"


def code(text: str) -> str:
    escaped = re.sub(r"\|", r"\\|", text)
    return f"`` {escaped} ``" if "`" in escaped else f"`{escaped}`"


HEAD = """# Mutation testing

`make mutants` changes the code of methods, capture (the rules among it) and trace, one place at a time, and runs the tests that
come by that place: does one fail? tests/mutants.py says which changes there are; `make mutants{option}`
tries them and makes this page, and `tests/mutants.py --again --budget 100` gives more tests to what survived ten seconds of them.
{tried}

"""


def head(modules: list[str], size: int | None) -> str:
    """What the page says about what was tried."""
    if size is None:
        return HEAD.format(
            option="", tried="Of a module that was not tried as a whole, what was tried is a drawn sample."
        )
    known = {line["key"] for line in results()}
    count = sum(mutant.key in known for mutant in drawn(modules, size))
    total = sum(len(mutants(module)) for module in modules)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tried = (
        f"{count} were tried of a sample of {size} of all {total} changes together, drawn at random (seed {SEED}), of the code "
        f"of commit {commit.stdout.strip()}."
    )
    return HEAD.format(option=f" SAMPLE={size}", tried=tried)


def main() -> None:
    """The modules that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="files of attcat; by default those of " + ", ".join(ROOMS))
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds of tests for each; more for what survived"
    )
    parser.add_argument("--sample", type=int, help="so many changes, drawn over all the modules")
    parser.add_argument("--write", action="store_true", help="try nothing: make docs/mutants.md")
    given = parser.parse_args()
    every = [str(path.relative_to(ROOT)) for room in ROOMS for path in sorted((ROOT / "attcat" / room).glob("*.py"))]
    OUT.mkdir(parents=True, exist_ok=True)
    if given.write:
        (ROOT / "docs" / "mutants.md").write_text(
            head(every, given.sample) + report(every, given.sample), encoding="utf-8"
        )
        return
    modules = given.modules or every
    measured()
    tried(modules, given.again, given.sample, given.budget)
    print(report(modules, given.sample))


if __name__ == "__main__":
    main()
