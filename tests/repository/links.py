#!/usr/bin/env python3
"""Checks the links of every Markdown file of the repository: files and headings must be there. It needs no network.

usage: links.py [FILE...]

Without a FILE it takes every Markdown file that git knows. Links to other sites are left alone. Exit status 1, with
file, line and link, when one leads nowhere.
"""
import pathlib
import re
import subprocess
import sys
import urllib.parse

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# [text](target "title"), ![text](target), and [label]: target
LINK = re.compile(
    r"!?\[(?:[^\[\]\n]|\n(?!\n)|\[[^\]\n]*\])*\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^ {0,3}\[[^\]\n]+\]:[ \t]+<?(\S+?)>?[ \t]*$",
    re.MULTILINE,
)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"^\s*(```+|~~~+)")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")


def lines_outside_fences(text):
    """The lines of a document that are not code, with their numbers."""
    fence = None
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = None
        elif fence is None:
            yield number, line


def without_code(text):
    """The document with a letter for each character of code, so that what is left keeps its place."""
    prose = dict(lines_outside_fences(text))
    masked = lambda line: CODE.sub(lambda code: "x" * len(code[0]), line)
    return "\n".join(masked(prose[number]) if number in prose else "x" * len(line) for number, line in enumerate(text.split("\n"), 1))


def links(text):
    """The targets of a document's links, with the numbers of their lines.

    >>> list(links("see [a](b.md#c) and `[d](e)`\\n```\\n[f](g)\\n```\\n[h]: i.md\\n[j\\nk](l)"))
    [(1, 'b.md#c'), (5, 'i.md'), (7, 'l')]
    """
    prose = without_code(text)
    for found in LINK.finditer(prose):
        group = 1 if found[1] else 2
        yield prose.count("\n", 0, found.start(group)) + 1, found[group]


def slug(heading):
    """The anchor that GitHub and mdBook make of a heading.

    >>> slug("What it *costs*: `a_b` and [c](d.md)")
    'what-it-costs-a_b-and-c'
    """
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(text):
    """Every anchor of a document; a heading that comes twice has a number the second time.

    >>> sorted(anchors("# A b\\n## A b\\n"))
    ['a-b', 'a-b-1']
    """
    found, counts = set(HTML_ANCHOR.findall(text)), {}
    for _, line in lines_outside_fences(text):
        heading = HEADING.match(line)
        if heading:
            name = slug(heading[1])
            count = counts.get(name, 0)
            counts[name] = count + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def tracked():
    """Every file that git knows or would take, and every directory with one, relative to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout.split(b"\0")
    files = {pathlib.PurePosixPath(name.decode(errors="surrogateescape")) for name in names if name}
    return files, {parent for file in files for parent in file.parents}


def target_of(document, target):
    """The path of a link relative to the repository, and its anchor; no path for another site."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None, ""
    path, _, anchor = target.partition("#")
    if not path:
        return document, anchor
    parts = []
    for part in (document.parent / urllib.parse.unquote(path)).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return pathlib.PurePosixPath(*parts), anchor


def dead(document, files, directories):
    """The links of a document that lead nowhere, with the numbers of their lines."""
    for number, target in links((REPOSITORY / document).read_text()):
        path, anchor = target_of(document, target)
        if path is None:
            continue
        if path not in files and path not in directories:
            yield number, target, "there is no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors((REPOSITORY / path).read_text()):
            yield number, target, "the document has no such heading"


def not_on_the_site(files):
    """The documents below docs/ that docs/SUMMARY.md lacks: they would be on no page of the site."""
    summary = pathlib.PurePosixPath("docs/SUMMARY.md")
    listed = {target_of(summary, target)[0] for _, target in links((REPOSITORY / summary).read_text())}
    return sorted(file for file in files if file.suffix == ".md" and file.parts[0] == "docs" and file not in listed | {summary})


def main():
    import doctest

    if doctest.testmod().failed:
        sys.exit("links.py: error: it does not do what its examples say")
    files, directories = tracked()
    named = [pathlib.PurePosixPath(pathlib.Path(name).resolve().relative_to(REPOSITORY)) for name in sys.argv[1:]]
    documents = named or sorted(file for file in files if file.suffix == ".md" and (REPOSITORY / file).is_file())
    wrong = count = 0
    for document in documents:
        count += sum(1 for _ in links((REPOSITORY / document).read_text()))
        for number, target, why in dead(document, files, directories):
            print(f"{document}:{number}: {target}: {why}")
            wrong += 1
    for document in [] if named else not_on_the_site(files):
        print(f"{document}: docs/SUMMARY.md does not list it")
        wrong += 1
    if count < 50 and not named:
        sys.exit(f"links.py: error: only {count} links in {len(documents)} documents: it looks in the wrong place")
    print(f"links: {count} links of {len(documents)} documents, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
