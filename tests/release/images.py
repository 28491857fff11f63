#!/usr/bin/env python3
"""Tests the images, charts and archives of a release: assembled of programs that are built, and looked into by skopeo, helm and tar.

usage: images.py [--programs DIRECTORY] [--arm64 DIRECTORY] [--helm PATH] [UNITTEST ARGUMENT]...

--programs and --arm64 as in packages.py. Needs buildah, skopeo and helm 4. Programs of arm64 are looked at, and not run.
"""
import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import unittest

import programs

REPOSITORY = programs.REPOSITORY
IMAGES = {"broker": (["keyhole-broker", "keyhole-reader"], "64646:64646"), "exporter": (["keyhole-exporter"], "64647:64647")}
SOURCE = "https://example.org/somewhere"
REGISTRY = "registry.example/somewhere"

# Set by main.
directory = where = version = None


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def each(where):
    return [f"{architecture}={path}" for architecture, path in where.items()]


class Images(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.archives = dict(zip(IMAGES, map(pathlib.Path, programs.run("images", "--source", SOURCE, directory / "out", *each(where)).splitlines())))

    def test_each_image_has_both_platforms(self):
        for name, path in self.archives.items():
            self.assertEqual(path.name, f"keyhole-{name}_{version}.oci.tar")
            index = json.loads(output("skopeo", "inspect", "--raw", f"oci-archive:{path}:{version}"))
            self.assertEqual(index["mediaType"], "application/vnd.oci.image.index.v1+json")
            self.assertEqual([(each["platform"]["os"], each["platform"]["architecture"]) for each in index["manifests"]],
                             [("linux", "amd64"), ("linux", "arm64")])

    def test_a_platform_has_its_programs_its_user_and_its_labels(self):
        for name, path in self.archives.items():
            files, user = IMAGES[name]
            for architecture in where:
                layout = directory / f"{name}-{architecture}"
                output("skopeo", "copy", "--quiet", "--override-arch", architecture, f"oci-archive:{path}:{version}", f"dir:{layout}")
                manifest = json.loads((layout / "manifest.json").read_text())
                config = json.loads((layout / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
                self.assertEqual((config["os"], config["architecture"]), ("linux", architecture))
                self.assertEqual(config["config"]["Entrypoint"], [f"/{files[0]}"])
                self.assertEqual(config["config"]["User"], user)
                labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["config"]["Labels"].items()}
                revision = output("git", "-C", REPOSITORY, "rev-parse", "HEAD").strip()
                labels.pop("description")
                self.assertEqual(labels, {"title": f"keyhole-{name}", "licenses": "Apache-2.0", "version": version, "revision": revision,
                                          "source": SOURCE})
                found = {}
                for layer in manifest["layers"]:
                    with tarfile.open(layout / layer["digest"].removeprefix("sha256:")) as tar:
                        found |= {member.name: (member.mode, tar.extractfile(member).read()) for member in tar if member.isfile()}
                self.assertEqual(sorted(found), sorted(files))
                for file, (mode, content) in found.items():
                    self.assertEqual(mode & 0o777, 0o755)
                    self.assertEqual(content, (where[architecture] / file).read_bytes())
                    self.assertEqual(int.from_bytes(content[18:20], "little"), programs.MACHINES[architecture])

    def test_the_same_programs_make_the_same_bytes(self):
        again = programs.run("images", "--source", SOURCE, directory / "again", *reversed(each(where)), env={**os.environ, "TZ": "Asia/Tokyo"})
        for line, path in zip(again.splitlines(), self.archives.values()):
            self.assertEqual(digest(pathlib.Path(line)), digest(path), path.name)

    def test_programs_of_another_architecture_are_refused(self):
        with self.assertRaisesRegex(AssertionError, "is for AArch64, and amd64 needs"):
            programs.run("images", directory / "wrong", f"amd64={where['arm64']}")
        with self.assertRaisesRegex(AssertionError, "amd64 is named twice"):
            programs.run("images", directory / "wrong", f"amd64={where['amd64']}", f"amd64={where['amd64']}")


class Archives(unittest.TestCase):
    def test_each_has_the_programs_and_what_belongs_to_them(self):
        plugin = directory / "with-plugin"
        plugin.mkdir()
        for name in programs.PROGRAMS:
            (plugin / name).symlink_to(where["amd64"] / name)
        (plugin / "kubectl-keyhole").symlink_to(where["amd64"] / "keyhole-reader")
        lines = programs.run("archives", directory / "archives", f"amd64={plugin}", f"arm64={where['arm64']}").splitlines()
        names = [f"keyhole_{version}_linux_amd64", f"kubectl-keyhole_{version}_linux_amd64", f"keyhole_{version}_linux_arm64"]
        self.assertEqual([pathlib.Path(line).name for line in lines], [f"{name}.tar.gz" for name in names])
        files = [f"bin/{name}" for name in programs.PROGRAMS] + ["LICENSE", "THIRD-PARTY", "README.md", "CHANGELOG.md"]
        files += [f"systemd/{name}" for name in ("keyhole-broker.service", "keyhole-exporter.service", "keyhole.sysusers", "keyhole.default")]
        for name in ("keyhole-broker", "keyhole-exporter"):
            files += [f"man/{name}.1", f"completions/{name}.bash", f"completions/{name}.fish", f"completions/_{name}"]
        for line, name in zip(lines, names):
            expected = {f"{name}/{file}" for file in (["kubectl-keyhole", "LICENSE"] if name.startswith("kubectl") else files)}
            with tarfile.open(line) as tar:
                members = [member for member in tar if member.isfile()]
                self.assertEqual({member.name for member in members}, expected)
                self.assertEqual({(member.uid, member.gid) for member in members}, {(0, 0)})
                for member in members:
                    self.assertEqual(member.mode, 0o755 if "/bin/" in member.name or member.name.endswith("kubectl-keyhole") else 0o644, member.name)
                third = next((tar.extractfile(member).read().decode() for member in members if member.name.endswith("THIRD-PARTY")), "tokio@ ring@")
                self.assertTrue("tokio@" in third and "ring@" in third and "proptest@" not in third)
        again = programs.run("archives", directory / "archives-again", f"amd64={plugin}").splitlines()
        self.assertEqual([digest(pathlib.Path(line)) for line in again], [digest(pathlib.Path(line)) for line in lines[:2]])

    def test_checksums_find_a_changed_file(self):
        at = directory / "sums"
        at.mkdir()
        for name in ("a", "b c"):
            (at / name).write_text(name)
        programs.run("checksums", at)
        check = lambda: subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=at, capture_output=True).returncode
        self.assertEqual(len((at / "SHA256SUMS").read_text().splitlines()), 2)
        self.assertEqual(check(), 0)
        (at / "b c").write_text("changed")
        self.assertEqual(check(), 1)


class Charts(unittest.TestCase):
    def pack(self, to, *words):
        return [pathlib.Path(line) for line in programs.run("charts", *words, to, env={**os.environ, "HELM": str(arguments.helm)}).splitlines()]

    def test_each_chart_is_packaged_with_the_registry(self):
        charts = sorted(path.parent.name for path in (REPOSITORY / "deploy/helm").glob("*/Chart.yaml"))
        packed = self.pack(directory / "charts", "--registry", REGISTRY, "--source", SOURCE)
        self.assertEqual([path.name for path in packed], [f"{name}-{version}.tgz" for name in charts])
        for path in packed:
            values = output(arguments.helm, "show", "values", path)
            self.assertIn(f"\n  registry: {REGISTRY}\n", values)
            self.assertIn(f"version: {version}", output(arguments.helm, "show", "chart", path))
            with tarfile.open(path) as tar:
                text = "".join(tar.extractfile(member).read().decode() for member in tar if member.isfile())
            self.assertNotIn("https://example.org/keyhole", text)
            # The published chart pulls the published images.
            if "image:" in (rendered := output(arguments.helm, "template", "release", path, "--namespace", "keyhole")):
                self.assertIn(f"{REGISTRY}/keyhole-", rendered)
        again = self.pack(directory / "charts-again", "--registry", REGISTRY, "--source", SOURCE)
        self.assertEqual([digest(path) for path in again], [digest(path) for path in packed])

    def test_a_registry_is_needed(self):
        for registry in ("", "https://registry.example", "registry.example/Upper"):
            with self.assertRaises(AssertionError):
                self.pack(directory / "none", "--registry", registry)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs.add_arguments(parser)
    parser.add_argument("--helm", type=pathlib.Path, default=REPOSITORY / "target/ci-tools/helm")
    arguments, others = parser.parse_known_args()
    programs.use(arguments)
    arguments.helm = arguments.helm.resolve()
    with tempfile.TemporaryDirectory(prefix="images-", dir=REPOSITORY / "target") as temporary:
        directory, version = pathlib.Path(temporary), programs.version()
        where = programs.directories(directory)
        unittest.main(argv=[sys.argv[0], *others])
