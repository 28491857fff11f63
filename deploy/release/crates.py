"""The crates of the programs that ship, as cargo resolves them for a target: used by sbom and licenses."""
import dataclasses
import json
import pathlib
import subprocess
import sys
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ["keyhole-broker", "keyhole-reader", "keyhole-exporter"]
IMAGES = {"broker": ["keyhole-broker", "keyhole-reader"], "exporter": ["keyhole-exporter"]}
TARGETS = {"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}
# What is linked into a program, and what only its build runs: build scripts, procedural macros, and what these need.
LINKED = "normal,no-proc-macro"
ALL = "normal,build"


def fail(message):
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(1)


@dataclasses.dataclass(frozen=True, order=True)
class Crate:
    name: str
    version: str

    def __str__(self):
        return f"{self.name}@{self.version}"


def cargo(*arguments):
    try:
        done = subprocess.run(["cargo", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    except OSError as error:
        fail(f"cargo does not run: {error}: install Rust")
    if done.returncode != 0:
        fail(f"cargo {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def parse_tree(text):
    """The crates of each root, and the direct dependencies of each crate, of what `cargo tree --prefix depth --format '|{p}'` prints.

    >>> reached, edges = parse_tree("0|a v0.0.1 (/a)\\n1|b v0.0.2\\n2|c v0.0.3\\n1|c v0.0.3\\n0|d v0.0.4 (/d)\\n1|b v0.0.2 (*)\\n")
    >>> [str(crate) for crate in sorted(reached["d"])], edges[Crate("b", "0.0.2")]
    (['b@0.0.2', 'c@0.0.3', 'd@4.0.0'], {Crate(name='c', version='0.0.3')})
    """
    edges, path, roots = {}, [], []
    for line in filter(None, text.splitlines()):
        depth, _, package = line.partition("|")
        name, version = package.split()[:2]
        crate = Crate(name, version.removeprefix("v"))
        del path[int(depth):]
        edges.setdefault(crate, set())
        if path:
            edges[path[-1]].add(crate)
        else:
            roots.append(crate)
        path.append(crate)
    # A subtree is printed once, and then as (*): its edges are known from there.
    reached = {}
    for root in roots:
        reached[root.name], left = set(), [root]
        while left:
            crate = left.pop()
            if crate not in reached[root.name]:
                reached[root.name].add(crate)
                left += edges[crate]
    return reached, edges


def tree(architecture, edges):
    """The crates of each program, and the dependencies of each crate.

    All programs are resolved at once, as they are built: features are those of that build.
    """
    packages = [word for name in PROGRAMS for word in ("-p", name)]
    return parse_tree(cargo("tree", "--locked", "--edges", edges, "--target", TARGETS[architecture], "--prefix", "depth",
                            "--format", "|{p}", *packages))


def metadata(architecture):
    """What each crate says of itself, as cargo metadata has it."""
    described = json.loads(cargo("metadata", "--locked", "--format-version=1", "--filter-platform", TARGETS[architecture]))
    return {Crate(package["name"], package["version"]): package for package in described["packages"]}


def checksums():
    """The checksum of each crate in Cargo.lock; None for one of this workspace."""
    with open(REPOSITORY / "Cargo.lock", "rb") as file:
        return {Crate(package["name"], package["version"]): package.get("checksum") for package in tomllib.load(file)["package"]}
