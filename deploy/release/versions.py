"""The version of this release: read from Cargo.toml, its one place, and repeated where PLACES names.

set-version writes the places, check-version compares them, notes prints the changelog's section.
"""
import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Semantic versioning, without build metadata: a tag of an image and a version of a package cannot hold a plus sign.
VERSION = r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)?"

# Where the version is repeated: files, and the text around it. A pattern that matches nothing in a file is an error.
PLACES = [
    ("Cargo.toml", r'^\[workspace\.package\]\nversion = "{}"$'),
    ("deploy/kubernetes/base/kustomization.yaml", r"^ +app\.kubernetes\.io/version: {}$"),
    ("deploy/kubernetes/base/kustomization.yaml", r"^ +newTag: {}$"),
    ("deploy/kubernetes/examples/*/kustomization.yaml", r"^ +newTag: {}$"),
    ("deploy/kubernetes/examples/site/kustomization.yaml", r"\?ref=v{}$"),
    ("deploy/kubernetes/README.md", r"keyhole-\$image:{} "),
    ("deploy/systemd/README.md", r"keyhole_{}-1_amd64\.deb"),
    ("deploy/systemd/README.md", r"keyhole-{}-1\.x86_64\.rpm"),
    ("deploy/helm/*/Chart.yaml", r'^version: "?{}"?$'),
    ("deploy/helm/*/Chart.yaml", r'^appVersion: "?{}"?$'),
    ("docs/man/*.1", r'^\.TH \S+ 1 "" "keyhole-\w+ {}" "Keyhole"$'),
]
# Charts are optional; whatever else matches no file is an error.
OPTIONAL = {"deploy/helm/*/Chart.yaml"}
# Where the current version may not appear beside PLACES: it would be missed by the next release. So an example of a version is X.Y.Z, or
# 0.0.N, which is no release.
SEARCHED = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "deploy", "docs"]
# The first words of what a test wrote of its last run: the version there is the one that ran.
RECORD = "<!-- Written by "
# Packages without a source, which are this workspace's.
LOCK_ENTRY = re.compile(rf'^\[\[package\]\]\nname = "([\w-]+)"\nversion = "({VERSION})"\n(?!source)', re.MULTILINE)


def fail(message):
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(1)


def current():
    """The version of Cargo.toml."""
    return re.search(PLACES[0][1].format(f"({VERSION})"), (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)[1]


def places():
    """Each place with its file, its pattern with one group, and the matches in the file."""
    for glob, pattern in PLACES:
        expression = re.compile(pattern.format(f"({VERSION})"), re.MULTILINE)
        paths = sorted(REPOSITORY.glob(glob))
        if not paths and glob not in OPTIONAL:
            fail(f"{glob}: no such file, though versions.py names it in PLACES")
        for path in paths:
            matches = list(expression.finditer(path.read_text()))
            if not matches:
                fail(f"{path.relative_to(REPOSITORY)}: nothing matches {pattern}: change PLACES in deploy/release/versions.py")
            yield path, expression, matches


def replace(text, expression, version):
    """The text with the group of each match replaced.

    >>> replace("a: 0.0.1 b: 0.0.1", re.compile("a: (0.0.1)"), "0.0.2")
    'a: 0.0.2 b: 0.0.1'
    """
    return expression.sub(lambda match: match[0].replace(match[1], version), text)


def set_to(version):
    """Writes a version to all places and to Cargo.lock; the files that changed."""
    texts = {}
    for path, expression, _ in places():
        texts[path] = replace(texts.get(path) or path.read_text(), expression, version)
    lock = REPOSITORY / "Cargo.lock"
    old = current_of_lock()
    texts[lock] = LOCK_ENTRY.sub(lambda match: match[0].replace(f'"{old}"', f'"{version}"'), lock.read_text())
    # Not before each place is known to be there: either all are written or none.
    changed = [path for path, text in texts.items() if text != path.read_text()]
    for path in changed:
        path.write_text(texts[path])
    return [path.relative_to(REPOSITORY) for path in changed]


def current_of_lock():
    """The version of the package keyhole in Cargo.lock."""
    return dict(LOCK_ENTRY.findall((REPOSITORY / "Cargo.lock").read_text()))["keyhole"]


def wrong(tag=None):
    """What differs from the version of Cargo.toml; with a tag, what a release lacks."""
    version = current()
    covered = set()
    for path, _, matches in places():
        text, name = path.read_text(), path.relative_to(REPOSITORY)
        for match in matches:
            line = text.count("\n", 0, match.start(1)) + 1
            covered.add((str(name), line))
            if match[1] != version:
                yield f"{name}:{line}: {match[1]}, and Cargo.toml has {version}: deploy/release/set-version {version}"
    for name, locked in LOCK_ENTRY.findall((REPOSITORY / "Cargo.lock").read_text()):
        if locked != version:
            yield f"Cargo.lock: {name} {locked}, and Cargo.toml has {version}: deploy/release/set-version {version}"
    listed = subprocess.run(["git", "grep", "-nIF", version, "--", *SEARCHED], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode > 1:
        fail(f"git grep: {listed.stderr.strip()}: run it in a checkout")
    for hit in listed.stdout.splitlines():
        name, line, text = hit.split(":", 2)
        whole = re.search(rf"(?<![\w.]){re.escape(version)}(?![\w.])", text.replace(f"v{version}", version))
        if whole and (name, int(line)) not in covered and not is_record(name):
            yield f"{name}:{line}: repeats the version, and set-version does not know it: add it to PLACES in deploy/release/versions.py"
    section = sections().get(version)
    if section is None:
        yield f"CHANGELOG.md: no section {version}: write ## {version} - YYYY-MM-DD"
    if tag is not None:
        if tag != f"v{version}":
            yield f"the tag is {tag}, and the version of Cargo.toml makes it v{version}"
        if section is not None and not section.date:
            yield f"CHANGELOG.md: the section {version} has no date: ## {version} - YYYY-MM-DD"
        if (unreleased := sections().get("Unreleased")) and unreleased.text.strip():
            yield "CHANGELOG.md: lines below Unreleased: move them to the section of the release, or release them later"


def is_record(name):
    with open(REPOSITORY / name, "rb") as file:
        return file.read(len(RECORD)) == RECORD.encode()


class Section:
    def __init__(self, date, text):
        self.date, self.text = date, text


def sections():
    """The changelog's sections, by version."""
    parts = re.split(r"^## (.+)\n", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for title, text in zip(parts[::2], parts[1::2]):
        version, _, date = title.partition(" - ")
        found[version] = Section(date, text.strip("\n"))
    return found


def unwrap(text):
    """Prose on one line a paragraph: a release page shows each line break.

    >>> print(unwrap("- one\\n  two\\n- three\\n\\n| a |\\n| b |"))
    - one two
    - three
    <BLANKLINE>
    | a |
    | b |
    """
    lines, fenced = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        begins = not line or re.match(r"\s*([-*|#>]|\d+\.|```)", line)
        if lines and lines[-1] and not begins and not fenced and not re.match(r"\s*(\||#|```)", lines[-1]):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return "\n".join(lines)


def link(text, base):
    """Relative links made absolute: a release page lies elsewhere than the changelog.

    >>> link("[a](docs/a.md#b) [c](https://c) [d](#d)", "https://e/")
    '[a](https://e/docs/a.md#b) [c](https://c) [d](https://e/CHANGELOG.md#d)'
    """
    absolute = lambda target: base + ("CHANGELOG.md" if target.startswith("#") else "") + target
    return re.sub(r"\]\((?!\w+:)([^)\s]+)\)", lambda match: f"]({absolute(match[1])})", text)
