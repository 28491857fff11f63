#!/usr/bin/env python3
"""Holds instructions to a budget: a regression fails without the noise of a clock.

usage: instructions.py [--update]

Builds the benches of reader and exporter and runs each under callgrind for a few rounds and for more; the difference is
whole rounds, free of what the start takes. instructions.budget has what each may take. Exit status 1 when one takes
more than 5 % above it, or 15 % where another compiler built it than the budget's. --update writes what was counted.

Needs Debian's valgrind package. Link-time optimisation is off, since it takes minutes: the figures are for comparing.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BUDGET = HERE / "instructions.budget"
TREE = "tests/golden/host/tree"
# name: (package, bench, fewer rounds, more rounds). The first rounds make what later ones reuse; many
# make little of how a read happens to be cut into batches.
COUNTED = {
    "reader: a read of all queries": ("keyhole-reader", "read", 5, 45),
    "exporter: a scrape, from the answer to gzip": ("keyhole-exporter", "render", 5, 45),
}
ABOVE, OTHER_COMPILER, BELOW = 0.05, 0.15, 0.10


def fail(message):
    sys.exit(f"instructions.py: error: {message}")


def build():
    """The benches, by name."""
    environment = {
        **os.environ, "CARGO_PROFILE_BENCH_LTO": "off", "CARGO_PROFILE_BENCH_CODEGEN_UNITS": "16",
        "CARGO_TARGET_DIR": str(REPOSITORY / "target/bench"),
    }
    wanted = [flag for package, bench, *_ in COUNTED.values() for flag in ("-p", package, "--bench", bench)]
    command = ["cargo", "bench", "--locked", "--quiet", "--no-run", "--message-format=json", *wanted]
    output = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    if output.returncode != 0:
        fail("the benches did not build")
    messages = [json.loads(line) for line in output.stdout.splitlines()]
    return {of["target"]["name"]: of["executable"] for of in messages if of.get("executable")}


def count(program, rounds, home):
    """Instructions of a run, of all threads."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={home}/out", program, TREE, str(rounds)]
    try:
        output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        fail("valgrind is missing: apt-get install valgrind")
    found = re.search(r"^==\d+== Collected : (\d+)$", output.stderr, re.MULTILINE)
    if output.returncode != 0 or not found:
        fail(f"{program}: {output.stdout}{output.stderr}")
    return int(found.group(1))


def main():
    if sys.argv[1:] not in ([], ["--update"]):
        fail("usage: instructions.py [--update]")
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split(" (")[0]
    programs = build()
    counted = {}
    with tempfile.TemporaryDirectory(prefix="keyhole-instructions-") as home:
        for name, (_, bench, fewer, more) in COUNTED.items():
            few, many = count(programs[bench], fewer, home), count(programs[bench], more, home)
            counted[name] = (many - few) // (more - fewer)
    if sys.argv[1:]:
        rows = "".join(f"{name}\t{instructions}\n" for name, instructions in counted.items())
        BUDGET.write_text(f"# Instructions a round: tests/bench/instructions.py --update\ncompiler\t{compiler}\n{rows}")
    budget = dict(line.split("\t") for line in BUDGET.read_text().splitlines() if not line.startswith("#"))
    margin = ABOVE
    if budget.pop("compiler") != compiler:
        margin = OTHER_COMPILER
        print(f"  built by {compiler}, and the budget by another: {100 * margin:.0f} % above it pass")
    if budget.keys() != counted.keys():
        fail(f"{BUDGET.name} has {sorted(budget)}, and counted were {sorted(counted)}: --update")
    over = []
    for name, instructions in counted.items():
        of = instructions / int(budget[name]) - 1
        print(f"  {name}: {instructions:,} instructions, {100 * of:+.1f} % against the budget")
        if of > margin:
            over.append(name)
        if of < -BELOW:
            print(f"  well below: lower the budget, {pathlib.Path(__file__).name} --update")
    if over:
        fail(f"over the budget: {', '.join(over)}. Find out why, or raise it with --update and say why in the commit")
    print(f"instructions: {len(counted)} within their budget")


if __name__ == "__main__":
    main()
