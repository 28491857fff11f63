#!/usr/bin/env python3
"""Compares the SBOMs with Cargo.lock, with what cargo resolves and with what the compiler was called for; validates the schema.

usage: sbom.py [--programs DIRECTORY] [--arm64 DIRECTORY] [UNITTEST ARGUMENT]...

Needs the build of `deploy/images/build.sh programs`, jsonschema and cyclonedx-python-lib, which has the published schemas.
"""
import argparse
import copy
import hashlib
import importlib.resources
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib
import unittest

import jsonschema
import referencing
import referencing.jsonschema

import programs

REPOSITORY = programs.REPOSITORY
TRIPLES = {"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}
IMAGES = {"broker": ["keyhole-broker", "keyhole-reader"], "exporter": ["keyhole-exporter"]}
NATIVE = {"rust-std", "glibc", "libgcc"}

# Set by main: each document by its name, and where the programs are.
documents, where = {}, {}


def load(name):
    with importlib.resources.files("cyclonedx.schema._res").joinpath(name).open() as file:
        return json.load(file)


def faults_of_schema(document):
    """What a validator finds."""
    parts = {name: load(f"{name}.SNAPSHOT.schema.json") for name in ("bom-1.6", "spdx", "jsf-0.82", "cryptography-defs")}
    registry = referencing.Registry().with_resources(
        [(part["$id"], referencing.Resource.from_contents(part, default_specification=referencing.jsonschema.DRAFT7)) for part in parts.values()])
    validator = jsonschema.Draft7Validator(parts["bom-1.6"], registry=registry)
    return [error.message for error in validator.iter_errors(document)]


def crates(document, scope):
    """The crates of a scope, with their versions and checksums."""
    return {(part["name"], part["version"], part["hashes"][0]["content"] if "hashes" in part else None)
            for part in document["components"]
            if part.get("scope") == scope and part["type"] == "library" and part["bom-ref"] not in NATIVE}


def lock():
    with open(REPOSITORY / "Cargo.lock", "rb") as file:
        return {(package["name"], package["version"]): package.get("checksum") for package in tomllib.load(file)["package"]}


def resolved(architecture, edges, names=programs.PROGRAMS):
    """What `cargo tree` prints, as it is."""
    words = [word for name in names for word in ("-p", name)]
    done = subprocess.run(["cargo", "tree", "--locked", "--edges", edges, "--target", TRIPLES[architecture], "--prefix", "none", *words],
                          cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {(line.split()[0], line.split()[1][1:]) for line in done.stdout.splitlines() if line}


def faults(document, architecture, names):
    """Where an SBOM differs from Cargo.lock and from what cargo resolves.

    All programs are built at once, so that one may have a crate that only another's features ask for: it has at least the crates of
    its build alone, and at most those of the build of all.
    """
    locked = lock()
    linked, built = crates(document, "required"), crates(document, "excluded")
    for name, version, checksum in sorted(linked | built, key=str):
        if (name, version) not in locked:
            yield f"{name} {version} is not in Cargo.lock"
        elif locked[name, version] != checksum:
            yield f"{name} {version} has another checksum in Cargo.lock"
    found = {crate[:2] for crate in linked}
    least, most = (resolved(architecture, "normal,no-proc-macro", which) for which in (names, programs.PROGRAMS))
    yield from (f"{crate} is linked, and missing" for crate in sorted(least - found))
    yield from (f"{crate} is not linked" for crate in sorted(found - most))
    # What `cargo tree -e normal` has beside that are procedural macros and what they are made of.
    everything = found | {crate[:2] for crate in built}
    yield from (f"{crate} is missing" for crate in sorted(resolved(architecture, "normal", names) - everything))
    yield from (f"{crate} is no dependency" for crate in sorted(everything - resolved(architecture, "normal,build")))
    references = {part["bom-ref"] for part in (document["metadata"]["component"], *document["components"])}
    for row in document["dependencies"]:
        yield from (f"{reference} is no component" for reference in {row["ref"], *row.get("dependsOn", [])} - references)


class Sbom(unittest.TestCase):
    def each(self):
        """Each document with its architecture and its programs."""
        suffix = lambda architecture: f"{programs.version()}_linux_{architecture}.cdx.json"
        for architecture in TRIPLES:
            for name in programs.PROGRAMS:
                yield documents[f"{name}_{suffix(architecture)}"], architecture, [name]
            for image, names in IMAGES.items():
                yield documents[f"keyhole-{image}-image_{suffix(architecture)}"], architecture, names

    def test_there_is_one_of_each_program_and_image(self):
        self.assertEqual(len(list(self.each())), len(documents))

    def test_each_is_valid(self):
        for document, *_ in self.each():
            self.assertEqual(faults_of_schema(document), [])

    def test_each_has_the_crates_of_its_programs(self):
        for document, architecture, names in self.each():
            self.assertEqual(list(faults(document, architecture, names)), [], names)
            self.assertGreater(len(crates(document, "required")), 10)

    def test_together_they_have_all_crates(self):
        for architecture in TRIPLES:
            found = set().union(*({crate[:2] for crate in crates(document, "required")}
                                  for document, of, _ in self.each() if of == architecture))
            self.assertEqual(found, resolved(architecture, "normal,no-proc-macro"))

    def test_no_crate_of_tests_is_in_one(self):
        for document, *_ in self.each():
            names = {part["name"] for part in document["components"]}
            self.assertFalse(names & {"proptest", "tempfile", "keyhole-test-support", "libfuzzer-sys"})

    def test_the_compiler_was_called_for_the_same_crates(self):
        """The libraries of the build that made the programs: one that is fresh is listed, too."""
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run([REPOSITORY / "deploy/images/build.sh", "programs", directory, "--message-format=json"],
                                  capture_output=True, text=True, env={**os.environ, "TARGET": TRIPLES["amd64"]})
        self.assertEqual(done.returncode, 0, done.stderr)
        built = set()
        for message in map(json.loads, done.stdout.splitlines()):
            if message["reason"] == "compiler-artifact" and any(f"/{TRIPLES['amd64']}/" in name for name in message["filenames"]):
                name, _, version = message["package_id"].rpartition("#")[2].rpartition("@")
                built.add((name or message["package_id"].partition("#")[0].rpartition("/")[2], version))
        # A crate of this workspace is named by its directory.
        ours = {name for name, *_ in lock() if name.startswith("keyhole-")}
        built = {(f"keyhole-{name}" if f"keyhole-{name}" in ours else name, version) for name, version in built}
        listed = set().union(*({crate[:2] for crate in crates(document, "required")}
                               for document, architecture, _ in self.each() if architecture == "amd64"))
        self.assertEqual(built ^ listed, set())

    def test_each_names_its_programs_by_checksum_and_their_libraries(self):
        for document, architecture, names in self.each():
            parts = {part["name"]: part for part in (document["metadata"]["component"], *document["components"])
                     if part["type"] == "application"}
            self.assertEqual(sorted(parts), sorted(names))
            for name, part in parts.items():
                digest = hashlib.sha256((where[architecture] / name).read_bytes()).hexdigest()
                self.assertEqual(part["hashes"], [{"alg": "SHA-256", "content": digest}])
            native = {part["bom-ref"]: part["version"] for part in document["components"] if part["bom-ref"] in NATIVE}
            self.assertEqual(set(native), NATIVE)
            rustc = subprocess.run(["rustc", "--version"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
            self.assertEqual(native["rust-std"], rustc.split()[1])

    def test_the_same_programs_make_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as directory:
            programs.run("sbom", directory, f"amd64={where['amd64']}", env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"})
            for path in pathlib.Path(directory).iterdir():
                self.assertEqual(json.loads(path.read_text()), documents[path.name])

    def test_what_is_wrong_is_found(self):
        document, architecture, names = next(self.each())

        def changed(change):
            broken = copy.deepcopy(document)
            change(broken, next(part for part in broken["components"] if part["name"] == "tokio"))
            return list(faults(broken, architecture, names))

        self.assertTrue(any("is linked, and missing" in line for line in changed(lambda broken, tokio: broken["components"].remove(tokio))))
        self.assertTrue(any("not in Cargo.lock" in line for line in changed(lambda _, tokio: tokio.update(version="0.0.1"))))
        self.assertTrue(any("another checksum" in line for line in changed(lambda _, tokio: tokio["hashes"][0].update(content="0" * 64))))
        self.assertTrue(any("is not linked" in line for line in changed(lambda broken, tokio: broken["components"].append(
            {**tokio, "name": "proptest", "version": next(version for name, version in lock() if name == "proptest")}))))
        broken = copy.deepcopy(document)
        broken["components"][0]["type"] = "nonsense"
        self.assertNotEqual(faults_of_schema(broken), [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs.add_arguments(parser)
    arguments, others = parser.parse_known_args()
    programs.use(arguments)
    with tempfile.TemporaryDirectory(prefix="keyhole-sbom-") as temporary:
        temporary = pathlib.Path(temporary)
        where = programs.directories(temporary)
        made = programs.run("sbom", temporary / "sbom", *(f"{architecture}={path}" for architecture, path in where.items()))
        documents = {pathlib.Path(line).name: json.loads(pathlib.Path(line).read_text()) for line in made.splitlines()}
        unittest.main(argv=[sys.argv[0], *others])
