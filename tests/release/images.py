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
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.request

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
        lines = programs.run("archives", directory / "archives", *each(where)).splitlines()
        names = [f"keyhole_{version}_linux_{architecture}" for architecture in ("amd64", "arm64")]
        self.assertEqual([pathlib.Path(line).name for line in lines], [f"{name}.tar.gz" for name in names])
        files = [f"bin/{name}" for name in programs.PROGRAMS] + ["LICENSE", "THIRD-PARTY", "README.md", "CHANGELOG.md"]
        files += [f"systemd/{name}" for name in ("keyhole-broker.service", "keyhole-exporter.service", "keyhole.sysusers", "keyhole.default")]
        for name in ("keyhole-broker", "keyhole-exporter"):
            files += [f"man/{name}.1", f"completions/{name}.bash", f"completions/{name}.fish", f"completions/_{name}"]
        for line, name in zip(lines, names):
            expected = {f"{name}/{file}" for file in files}
            with tarfile.open(line) as tar:
                members = [member for member in tar if member.isfile()]
                self.assertEqual({member.name for member in members}, expected)
                self.assertEqual({(member.uid, member.gid) for member in members}, {(0, 0)})
                for member in members:
                    self.assertEqual(member.mode, 0o755 if "/bin/" in member.name else 0o644, member.name)
                third = tar.extractfile(f"{name}/THIRD-PARTY").read().decode()
                self.assertTrue("tokio@" in third and "ring@" in third and "proptest@" not in third)
        again = programs.run("archives", directory / "archives-again", f"amd64={where['amd64']}").splitlines()
        self.assertEqual([digest(pathlib.Path(line)) for line in again], [digest(pathlib.Path(line)) for line in lines[:1]])

    def test_the_plugin_has_an_archive_a_platform_and_a_manifest_of_krew(self):
        platforms = [f"{system}_{architecture}" for system in ("linux", "darwin") for architecture in ("amd64", "arm64")]
        # What is packed: the plugin of a debug build, or any program where there is none. That it runs is tested elsewhere.
        built = REPOSITORY / "target/debug/kubectl-keyhole"
        file = built if built.exists() else where["amd64"] / "keyhole-reader"
        lines = programs.run("plugin", "pack", "--source", SOURCE, directory / "plugin", *[f"{each}={file}" for each in platforms]).splitlines()
        self.assertEqual([pathlib.Path(line).name for line in lines],
                         [*(f"kubectl-keyhole_{each}.tar.gz" for each in platforms), "keyhole.yaml"])
        manifest = pathlib.Path(lines[-1]).read_text()
        self.assertNotIn("https://example.org/keyhole", manifest)
        for line, platform in zip(lines, platforms):
            self.assertIn(f"uri: {SOURCE}/releases/download/v{version}/{pathlib.Path(line).name}\n      sha256: {digest(pathlib.Path(line))}\n", manifest)
            with tarfile.open(line) as tar:
                self.assertEqual([(member.name, member.mode) for member in tar], [("kubectl-keyhole", 0o755), ("LICENSE", 0o644)])
        again = programs.run("plugin", "pack", directory / "plugin-again", f"linux_amd64={file}").splitlines()
        self.assertEqual([digest(pathlib.Path(line)) for line in again], [digest(pathlib.Path(lines[0]))])
        with self.assertRaisesRegex(AssertionError, "windows_amd64: a platform is"):
            programs.run("plugin", "pack", directory / "none", f"windows_amd64={file}")

    def test_each_overlay_is_one_file_with_the_images_of_the_registry(self):
        lines = programs.run("manifests", "--registry", REGISTRY, directory / "manifests").splitlines()
        self.assertEqual([pathlib.Path(line).name for line in lines],
                         [f"keyhole_{version}_{name}.yaml" for name in ("minimal", "privileged-hostpath", "restricted-pv")])
        for line in lines:
            text = pathlib.Path(line).read_text()
            for image in ("broker", "exporter"):
                self.assertIn(f"image: {REGISTRY}/keyhole-{image}:{version}\n", text)

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


class Mistakes(unittest.TestCase):
    """Each is an error in words, with nothing written."""

    def error(self, script, *words, **environment):
        done = subprocess.run([REPOSITORY / "deploy" / script, *words], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **environment})
        self.assertIn(done.returncode, (1, 2), words)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_flags_without_a_value_and_values_that_would_be_more(self):
        amd64, out = f"amd64={where['amd64']}", directory / "mistakes"
        for words in (["release/packages", "--revision"], ["release/images", "--source"], ["release/plugin", "pack", "--source"]):
            self.assertRegex(self.error(*words), "^usage: ")
        for value in ("a b", "1/2", ""):
            self.assertIn(f"--revision={value}: ", self.error("release/packages", "--revision", value, out, amd64))
        for value in ("Name", "A <b@c>\nDepends: d <e@f>", "%{lua:x} <a@b>"):
            self.assertIn(f"--maintainer={value}: ", self.error("release/packages", "--maintainer", value, out, amd64))
        for value in ("ftp://a", "https://a|b", "https://a&b", "https://a\nb"):
            for words in (["packages"], ["images"], ["plugin", "pack"]):
                self.assertIn(f"--source={value}: ", self.error(f"release/{words[0]}", *words[1:], "--source", value, out, amd64))
        self.assertIn("write ARCH=DIRECTORY", self.error("release/archives", out, f"={where['amd64']}"))
        self.assertIn("a scheme", self.error("release/manifests", "--registry", "https://a", out))
        self.assertFalse(out.exists())

    def test_without_git_or_a_program_the_error_names_it(self):
        amd64, out = f"amd64={where['amd64']}", directory / "mistakes"
        self.assertIn("set SOURCE_DATE_EPOCH", self.error("release/archives", out, amd64, GIT_DIR="/nonexistent"))
        few = directory / "few"
        few.mkdir()
        for name in ("bash", "basename", "dirname", "mktemp", "realpath", "rm", "sed", "uname"):
            (few / name).symlink_to(shutil.which(name))
        self.assertIn("readelf is missing", self.error("release/archives", out, amd64, PATH=str(few), SOURCE_DATE_EPOCH="1"))

    def test_an_sbom_needs_a_date_and_cargo_and_is_of_all_programs_or_none(self):
        amd64, out = f"amd64={where['amd64']}", directory / "mistakes"
        for environment in ({"SOURCE_DATE_EPOCH": "yesterday"}, {"SOURCE_DATE_EPOCH": "", "GIT_DIR": "/nonexistent"}):
            self.assertIn("sbom: error: no date of the commit", self.error("release/sbom", out, amd64, **environment))
        few = directory / "without-cargo"
        few.mkdir()
        # Python itself: what is on the PATH may be a script that looks for one.
        (few / "python3").symlink_to(os.path.realpath(sys.executable))
        (few / "git").symlink_to(os.path.realpath(shutil.which("git")))
        self.assertIn("sbom: error: cargo does not run", self.error("release/sbom", out, amd64, PATH=str(few)))
        self.assertIn("is missing", self.error("release/sbom", out, amd64, "arm64=/nonexistent"))
        self.assertFalse(out.exists())

    def test_a_rendered_file_is_whole_or_not_there(self):
        here = REPOSITORY / "deploy/kubernetes"
        for words in (["", "a"], ["../base", "a"], ["minimal", "https://a"], ["minimal", "a, b: c"], ["minimal", "a", ""],
                      ["minimal", "a", "../base"]):
            self.assertIn("render: error: ", self.error("kubernetes/render", *words))
        self.assertIn("/nonexistent was not found", self.error("kubernetes/render", "minimal", "a", KUBECTL="/nonexistent"))
        self.assertIn("could not build", self.error("kubernetes/render", "minimal", "a", KUBECTL="/bin/false"))
        self.assertEqual(list(here.glob(".render-*")), [])

    def test_krews_manifest_is_not_written_without_all_platforms(self):
        out = directory / "twice"
        file = where["amd64"] / "keyhole-reader"
        with self.assertRaisesRegex(AssertionError, "linux_amd64 is named twice"):
            programs.run("plugin", "pack", out, f"linux_amd64={file}", f"linux_amd64={file}")
        self.assertFalse((out / "keyhole.yaml").exists())

    def test_checksums_of_a_name_with_a_line_feed_are_refused(self):
        at = directory / "line feed"
        at.mkdir()
        (at / "a\nb").write_text("")
        self.assertIn("a line feed in its name", self.error("release/checksums", at))
        self.assertIn("is no directory", self.error("release/checksums", at / "none"))
        self.assertFalse((at / "SHA256SUMS").exists())


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


class Registry(unittest.TestCase):
    """A real registry on this machine takes what is pushed, and Helm installs from it."""

    def setUp(self):
        at = directory / "registry"
        at.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        (at / "config.yml").write_text(json.dumps({
            "version": 0.1, "storage": {"filesystem": {"rootdirectory": str(at / "data")}}, "http": {"addr": self.address}}))
        with open(at / "log", "w") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", at / "config.yml"], stdout=log, stderr=log)
        self.addCleanup(self.stop)
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).close()
                return
            except OSError:
                self.assertIsNone(self.process.poll(), (at / "log").read_text())
                self.assertLess(time.monotonic(), deadline, (at / "log").read_text())
                time.sleep(0.1)

    def stop(self):
        self.process.kill()
        self.process.wait(20)

    def test_images_and_charts_are_pushed_and_found(self):
        to, registry = directory / "pushed", f"{self.address}/keyhole"
        programs.run("images", "--source", SOURCE, to, *each(where))
        (chart,) = programs.run("charts", "--registry", registry, to, env={**os.environ, "HELM": str(arguments.helm)}).splitlines()
        pushed = dict(line.split() for line in programs.run(
            "push", "--insecure", to, registry, env={**os.environ, "HELM": str(arguments.helm)}).splitlines())
        self.assertEqual(sorted(pushed), [f"{registry}/{name}" for name in ("charts/keyhole", "keyhole-broker", "keyhole-exporter")])
        for image in ("broker", "exporter"):
            raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/keyhole-{image}:{version}"],
                                 check=True, capture_output=True, timeout=60).stdout
            self.assertEqual(f"sha256:{hashlib.sha256(raw).hexdigest()}", pushed[f"{registry}/keyhole-{image}"])
            self.assertEqual([each["platform"]["architecture"] for each in json.loads(raw)["manifests"]], ["amd64", "arm64"])
        chart_of = lambda source, *flags: output(arguments.helm, "template", "keyhole", source, "--namespace", "keyhole", *flags)
        pulled = chart_of(f"oci://{registry}/charts/keyhole", "--plain-http")
        self.assertEqual(pulled[pulled.index("---"):], chart_of(chart)[chart_of(chart).index("---"):])
        self.assertIn(f"image: \"{registry}/keyhole-broker:{version}\"", pulled)


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
