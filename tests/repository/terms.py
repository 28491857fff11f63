#!/usr/bin/env python3
"""Fails for each replaced term that comes back: with file, line, and what to write instead. The terms are in terms.tsv.

usage: terms.py [--count] [FILE...]

Without a FILE it takes every file that git knows, but those that a kernel, a peer or a generator wrote. With --count it prints how
often each term comes, and in which directories, and succeeds.
"""
import collections
import csv
import fnmatch
import pathlib
import re
import sys

import links

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SCOPES = {"code", "text", "prose"}
# What others wrote, and this check's own data.
SKIPPED = [
    "tests/golden/*", "tests/kernels/trees/*", "fuzz/regressions/*", "*/generated/*", "docs/man/*", "Cargo.lock", "LICENSE",
    "tests/repository/terms.*",
]
HASH = {".py", ".sh", ".toml", ".yaml", ".yml", ""}
SLASHES = {".rs", ".proto", ".c", ".go"}
# What may begin a comment or a string, by the language; the rest of a line is code.
RUST_STRING = r'b?r(?P<hashes>#*)".*?"(?P=hashes)|[bc]?"(?:\\.|[^"\\])*"'
TOKENS = {
    "slashes": re.compile(rf"(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<char>b?'(?:\\[^\n]{{1,9}}?|[^\\'\n])')|(?P<string>{RUST_STRING})", re.DOTALL),
    "python": re.compile(r'(?P<comment>#[^\n]*|[rb]?"""(?:\\.|[^\\])*?""")|(?P<string>[rbf]{0,2}(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'))', re.DOTALL),
    "hash": re.compile(r"(?:^|(?<=\s))(?P<comment>#[^\n]*)"),
}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Terms:
    """The rows of terms.tsv."""

    def __init__(self, path):
        self.terms, self.allowed = [], []
        with open(path, newline="") as file:
            for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                if not row or row[0].startswith("#"):
                    continue
                if row[0] == "allow":
                    _, glob, line, _reason = row
                    self.allowed.append((glob, re.compile(line)))
                    continue
                scopes, term, instead = row
                if not set(scopes.split(",")) <= SCOPES:
                    sys.exit(f"terms.py: error: {path.name}: {scopes}: a scope is one of {', '.join(sorted(SCOPES))}")
                self.terms.append((set(scopes.split(",")), self.word(term), instead, term))
        # Most lines hold none: one search for all of a scope's terms says so.
        self.any = {scope: self.word("|".join(row[3] for row in self.terms if scope in row[0])) for scope in SCOPES}

    @staticmethod
    def word(term):
        return re.compile(rf"(?<![\w-])(?:{term})(?!\w)")

    def allows(self, name, line):
        return any(fnmatch.fnmatch(name, glob) and expression.search(line) for glob, expression in self.allowed)


def words(code):
    """Code with its identifiers split into words.

    >>> words("fn read_HTTPHead(held: Vec<u8>)")
    'fn read http head ( held : vec < u 8 > )'
    """
    parts = re.findall(r"\w+|[^\w\s]", code)
    return " ".join(word.lower() for part in parts for word in (WORD.findall(part) or [part]))


def split(path, text):
    """The text of a file by scope, each a copy with only that scope's characters left, so that lines keep their numbers.

    >>> by = split(pathlib.PurePath("a.rs"), 'let a = "b"; // c')
    >>> by["code"].split(), by["text"].strip(), by["prose"].strip()
    (['let', 'a', '=', ';'], '"b"', '// c')
    """
    if path.suffix == ".md":
        kept = {number: links.CODE.sub("", line) for number, line in links.lines_outside_fences(text)}
        return {"prose": "\n".join(kept.get(number, "") for number in range(1, text.count("\n") + 2))}
    language = "python" if path.suffix == ".py" else "slashes" if path.suffix in SLASHES else "hash"
    blank = lambda part: re.sub(r"[^\n]", " ", part)
    by, at = {"code": [], "text": [], "prose": []}, 0

    def add(scope, part):
        for name, pieces in by.items():
            pieces.append(part if name == scope else blank(part))

    for found in TOKENS[language].finditer(text):
        add("code", text[at:found.start()])
        kind = found.lastgroup if found.lastgroup != "hashes" else "string"
        add({"comment": "prose", "string": "text", "char": "code"}[kind], found[0])
        at = found.end()
    add("code", text[at:])
    return {name: "".join(pieces) for name, pieces in by.items()}


def files_to_check():
    for file in sorted(links.tracked()[0]):
        name = str(file)
        known = file.suffix in HASH | SLASHES | {".md"}
        if known and not any(fnmatch.fnmatch(name, glob) for glob in SKIPPED) and (REPOSITORY / file).is_file():
            yield file


def hits(terms, file):
    """Replaced terms of a file: line, term, what to write instead."""
    try:
        text = (REPOSITORY / file).read_text()
    except UnicodeDecodeError:
        return
    lines = text.splitlines()
    # A document that is generated is put right where it comes from.
    if file.suffix == ".md" and lines and "Generated:" in lines[0]:
        return
    for scope, part in split(file, text).items():
        for number, line in enumerate(part.split("\n"), 1):
            line = words(line) if scope == "code" else line.lower()
            if not terms.any[scope].search(line):
                continue
            for scopes, expression, instead, term in terms.terms:
                found = scope in scopes and expression.search(line)
                if found and not terms.allows(str(file), lines[number - 1]):
                    yield number, found[0], instead, term


def main():
    import doctest

    if doctest.testmod().failed:
        sys.exit("terms.py: error: it does not do what its examples say")
    terms = Terms(HERE / "terms.tsv")
    counting = sys.argv[1:2] == ["--count"]
    named = [pathlib.PurePath(name) for name in sys.argv[1 + counting:]]
    counts, files, total = collections.defaultdict(collections.Counter), 0, 0
    for file in named or files_to_check():
        files += 1
        for number, found, instead, term in sorted(hits(terms, file)):
            total += 1
            counts[term]["/".join(file.parts[:2])] += 1
            if not counting:
                print(f"{file}:{number}: {found}: write {instead}")
    for term, places in sorted(counts.items(), key=lambda row: -row[1].total()) if counting else []:
        print(f"{places.total():5} {term}: " + ", ".join(f"{place} {count}" for place, count in places.most_common(8)))
    if files < 50 and not named:
        sys.exit(f"terms.py: error: only {files} files: it looks in the wrong place")
    print(f"terms: {total} replaced terms in {files} files, of {len(terms.terms)} terms")
    return 1 if total and not counting else 0


if __name__ == "__main__":
    sys.exit(main())
