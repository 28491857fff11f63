#!/usr/bin/env python3
"""Checks that what the recipes of the justfile run is there: scripts, packages, test targets and steps of .ci/run.

usage: recipes.py

Where just is installed, it must take the file as well. Exit status 1 when anything is missing.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RECIPE = re.compile(r"^([a-z][a-z-]*)((?: [*+]?[a-z]+)*):")
CARGO = {"build", "clippy", "fmt", "run", "test"}


def recipes(text):
    """The commands of each recipe, by name, with the number of their lines.

    >>> recipes("# One.\\nrun *words:\\n    @cargo run -- {{words}}\\n")
    {'run': [(3, 'cargo run -- {{words}}')]}
    """
    found, name = {}, None
    for number, line in enumerate(text.splitlines(), 1):
        start = RECIPE.match(line)
        if start:
            name = start[1]
            found[name] = []
        elif line.startswith("    "):
            found[name].append((number, line.strip().lstrip("@-")))
        elif line and not line.startswith("#"):
            sys.exit(f"justfile:{number}: neither a comment, a recipe nor a command: {line}")
    return found


def packages():
    texts = [path.read_text() for path in REPOSITORY.glob("**/Cargo.toml") if "target" not in path.parts]
    return {name for text in texts for name in re.findall(r'^name = "([\w-]+)"', text, re.MULTILINE)}


def missing(command, names):
    """What a command needs and is not there."""
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program = words[0]
    if "/" in program:
        if not os.access(REPOSITORY / program, os.X_OK):
            yield f"{program} is no program"
    elif program == "cargo":
        if words[1] not in CARGO:
            yield f"cargo {words[1]}: is it a command of cargo? Then list it in {pathlib.Path(__file__).name}"
    elif program != "just":
        yield f"{program} comes with no toolchain"
    for flag, word in zip(words, words[1:]):
        if flag == "-p" and word not in names:
            yield f"there is no package {word}"
        if flag == "--test" and not (REPOSITORY / f"tests/{word}.rs").is_file():
            yield f"there is no tests/{word}.rs"


def main():
    import doctest

    if doctest.testmod().failed:
        sys.exit("recipes.py: error: it does not do what its examples say")
    found, names = recipes((REPOSITORY / "justfile").read_text()), packages()
    wrong = [
        f"justfile:{number}: {what}"
        for commands in found.values() for number, command in commands for what in missing(command, names)
    ]
    wrong += [f"justfile: {name} does nothing" for name, commands in found.items() if not commands]
    if shutil.which("just"):
        done = subprocess.run(["just", "--list"], cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
        wrong += done.stderr.splitlines() if done.returncode != 0 else []
    for line in wrong:
        print(line)
    print(f"recipes: {len(found)} recipes of the justfile, {len(wrong)} faults")
    return 1 if wrong or len(found) < 5 else 0


if __name__ == "__main__":
    sys.exit(main())
