#!/usr/bin/env python3
"""Runs the images and the pods of the overlays for real: podman plays them with runc, a Prometheus scrapes them.

usage: run.py [--programs DIRECTORY] [--kubectl PATH] [UNITTEST ARGUMENT]...

DIRECTORY has the three static programs (target/static; deploy/images/build.sh programs DIRECTORY makes them). Needs root, Debian's
podman, buildah, runc, catatonit, netavark, iproute2 and prometheus, a C compiler with a static library, kubectl and
PyYAML. Namespaces, mounts and storage are its own and go away with it.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / directory) for directory in ("peers", "deploy")]
import launch
import pod as pods
from podman import Podman, namespaces, unshare, until
from scraped import NETWORK, by_prometheus, families, fields, labelled, network, samples

REPOSITORY = launch.REPOSITORY
BUILD = REPOSITORY / "deploy/images/build.sh"
NODE = "node-of-this-test"
UIDS = {"broker": 64646, "exporter": 64647}
# What each image holds.
PROGRAMS = {"broker": ["keyhole-broker", "keyhole-reader"], "exporter": ["keyhole-exporter"]}
LAYERS = {"capabilities", "landlock", "limits", "no_new_privs", "not_dumpable", "seccomp"}
# What an attempt that is refused ends with; what is not there cannot be attacked.
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS"}
# What podman's seccomp profile lets through and containerd's does not: unshare and keyctl, which no program here needs.
PODMANS = {"user_namespace", "take_keyring"}
# What the kernel says of a process outside the caller's PID namespace.
UNSEEN = {"signal_host": {"EINVAL"}}

# Set by main: podman, the directory with the programs, kubectl, and the namespaces outside.
podman = programs = kubectl = outside = None


def setUpModule():
    build(podman, programs)
    # The attack takes an image's place: the same user, one file.
    context = podman.home / "attack"
    context.mkdir()
    subprocess.run(["cc", "-static", "-O1", "-o", context / "attack", HERE / "attack.c"], check=True)
    (context / "Containerfile").write_text('FROM scratch\nCOPY attack /\nENTRYPOINT ["/attack"]\n')
    podman("build", "--quiet", "--tag", "attack", context, program="buildah")


def report(figures):
    """A line for people, among unittest's."""
    print(f"\n  {figures}", end=" ", file=sys.stderr, flush=True)


def build(store, directory):
    """Builds both images as the documentation says."""
    store("images", directory, program=str(BUILD))


def image(name):
    """An image's full name, by what is in it."""
    version = re.search(r'^version = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    return f"localhost/keyhole-{name}:{version}"


class Images(unittest.TestCase):
    def inspect(self, name):
        return json.loads(podman("image", "inspect", image(name)).stdout)[0]

    def test_an_image_has_its_static_programs_and_nothing_else(self):
        for name, files in PROGRAMS.items():
            root = pathlib.Path(podman("image", "mount", image(name)).stdout.split()[-1])
            self.assertEqual(sorted(str(path.relative_to(root)) for path in root.rglob("*")), files)
            for file in files:
                program = root / file
                status = program.stat()
                self.assertEqual((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), (0o755, 0, 0))
                headers = subprocess.run(["readelf", "--program-headers", program], check=True, capture_output=True, text=True)
                self.assertIn("LOAD", headers.stdout)
                self.assertNotIn("INTERP", headers.stdout)
                # deploy/images/no-unwind-tables.ld was heard.
                self.assertNotIn("GNU_EH_FRAME", headers.stdout)

    def test_a_program_does_not_reveal_where_it_was_built(self):
        home = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
        for file in launch.PROGRAMS:
            program = (programs / file).read_bytes()
            # Panic messages do name sources, by what stands in place of the directories. In the reader little can panic: there
            # they may all be our own, by their place in the repository.
            self.assertRegex(program, rb"/cargo/registry/src/|reader/src/" if file == "keyhole-reader" else b"/cargo/registry/src/")
            for directory in (str(REPOSITORY), home):
                self.assertNotIn(f"{directory}/".encode(), program)

    def test_an_image_has_a_numeric_user_and_labels(self):
        for name, uid in UIDS.items():
            config = self.inspect(name)["Config"]
            self.assertEqual((config["User"], config["Entrypoint"]), (f"{uid}:{uid}", [f"/keyhole-{name}"]))
            labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
            self.assertEqual(labels.keys(), {"title", "description", "licenses", "version", "revision"})
            self.assertTrue(all(labels.values()), labels)
            self.assertTrue(image(name).endswith(labels["version"]))

    def test_the_same_programs_have_the_same_digest_in_another_storage(self):
        with Podman() as other, tempfile.TemporaryDirectory() as directory:
            # Other dates and modes of the files, as another checkout has them.
            for file in launch.PROGRAMS:
                shutil.copyfile(programs / file, f"{directory}/{file}")
            build(other, directory)
            for name in UIDS:
                digest = self.inspect(name)["Digest"]
                self.assertEqual(json.loads(other("image", "inspect", image(name)).stdout)[0]["Digest"], digest)
                layout = f"oci:{other.home}/{name}"
                other("push", "--quiet", image(name), layout)
                blobs = sum(path.stat().st_size for path in (other.home / name / "blobs").rglob("*") if path.is_file())
                report(f"{image(name)} {digest}: {self.inspect(name)['Size']:,} bytes, {blobs:,} compressed")


class Rendering(unittest.TestCase):
    def test_what_weakens_a_pod_is_no_allowed_change(self):
        weaker = {
            "a capability": lambda pod, broker: broker["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
            "dropped drop": lambda pod, broker: broker["securityContext"]["capabilities"].pop("drop"),
            "uid 0": lambda pod, broker: broker["securityContext"].update(runAsUser=0),
            "a writable mount": lambda pod, broker: broker["volumeMounts"][-1].update(readOnly=False),
            "another argument": lambda pod, broker: broker["args"].append("--allow-root"),
            "another environment": lambda pod, broker: broker.update(env=[{"name": "A", "value": "b"}]),
            "the host's network": lambda pod, broker: pod["spec"].update(hostNetwork=True),
            "another volume": lambda pod, broker: pod["spec"]["volumes"].append({"name": "r", "hostPath": {"path": "/"}}),
            "a third container": lambda pod, broker: pod["spec"]["containers"].append({"name": "shell", "image": "x"}),
        }
        template = pods.template(kubectl, "privileged-hostpath")
        for what, change in weaker.items():
            pod = pods.render(template, "keyhole", dict.fromkeys(UIDS, "x"), NODE)
            self.assertEqual(pods.unallowed(pods.changes(template, pod)), [])
            change(pod, pod["spec"]["containers"][0])
            self.assertNotEqual(pods.unallowed(pods.changes(template, pod)), [], what)


def host_mounts_of(path):
    """The lines of the host's mountinfo, as fields, whose file system `path` lies on."""
    device = os.stat(path).st_dev
    device = f"{os.major(device)}:{os.minor(device)}"
    lines = [line.split() for line in pathlib.Path("/proc/1/mountinfo").read_text().splitlines()]
    return [line for line in lines if line[2] == device]


def size_of(path):
    numbers = os.statvfs(path)
    return float(numbers.f_blocks * numbers.f_frsize)


def sizes(text):
    """{mount point: bytes} of a scrape."""
    return {
        point: value
        for series, value in samples(text).items() if series.startswith("node_filesystem_size_bytes{")
        for point in re.findall(r'mountpoint="([^"]*)"', series)
    }


class PodClaims:
    """What holds for the pod of every overlay."""

    overlay = index = None
    components = ()
    uids = UIDS
    # What goes through from the broker's container, as long as it is not the broker that tries.
    through = PODMANS

    @classmethod
    def setUpClass(cls):
        cls.name = "-".join(["keyhole", cls.overlay, *cls.components])
        cls.template = pods.template(kubectl, cls.overlay, cls.components)
        cls.pod = pods.render(cls.template, cls.name, {name: image(name) for name in UIDS}, NODE)
        podman.play(cls.pod)
        cls.addClassCleanup(podman.remove, cls.pod)
        cls.address = f"{podman.connect(cls.pod, cls.index)}:9100"
        cls.url = f"http://{cls.address}"
        try:
            until("the pod is ready", launch.PROCESS_TIMEOUT, lambda: cls.answers("/-/ready"))
        except AssertionError:
            for name in UIDS:
                report(podman("logs", cls.container(name), check=False))
            raise

    @classmethod
    def answers(cls, path):
        """Whether a GET succeeds, as a kubelet's probe asks it."""
        try:
            return launch.fetch(cls.url + path, timeout=3)[0] == 200
        except OSError:
            return False

    @classmethod
    def container(cls, name):
        return f"{cls.name}-{name}"

    @classmethod
    def scrape(cls):
        return launch.scrape(f"{cls.url}/metrics")

    def statuses(self, name):
        """What the kernel says of each process of a container: of its program, and of what that started."""
        pid = podman.pid(self.container(name))
        return [fields(pathlib.Path(f"/proc/{of}/status").read_text()) for of in (pid, *launch.descendants(pid))]

    def mounts(self, name):
        """{mount point: (options, file system)} of a container."""
        lines = pathlib.Path(f"/proc/{podman.pid(self.container(name))}/mountinfo").read_text().splitlines()
        return {line.split()[4]: (line.split()[5].split(","), line.split(" - ")[1].split()[0]) for line in lines}

    def test_the_pod_is_the_overlays_but_for_what_podman_cannot_do(self):
        changes = pods.changes(self.template, self.pod)
        self.assertEqual(pods.unallowed(changes), [])
        self.assertIn("containers.broker.restartPolicy", changes)

    def test_no_process_has_a_user_a_capability_or_a_group_too_many(self):
        for name, gid in UIDS.items():
            statuses = self.statuses(name)
            # The kernel keeps 15 characters of a name.
            self.assertEqual({"".join(status["Name"]) for status in statuses}, {file[:15] for file in PROGRAMS[name]})
            for status in statuses:
                self.assertEqual(set(status["Uid"]), {str(self.uids[name])})
                self.assertEqual(set(status["Gid"]), {str(gid)})
                self.assertEqual(set(status["Groups"]), {str(gid), "64646"})
                for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    self.assertEqual(status[kind], ["0" * 16], (status["Name"], kind))
                self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), (["1"], ["2"]))
                # The runtime's filter and the program's own.
                self.assertGreaterEqual(int(status["Seccomp_filters"][0]), 2)

    def test_what_is_mounted_read_only_is_and_the_exporter_sees_nothing_of_the_host(self):
        for container in self.pod["spec"]["containers"]:
            mounts = self.mounts(container["name"])
            self.assertIn("ro", mounts["/"][0])
            for mount in container["volumeMounts"]:
                self.assertIn("ro" if mount.get("readOnly") else "rw", mounts[mount["mountPath"]][0], mount)
        mounts = self.mounts("exporter")
        self.assertIn("ro", mounts["/run/keyhole"][0])
        self.assertEqual([point for point in mounts if point.startswith(("/host", "/probe"))], [])

    def test_the_pod_has_namespaces_of_its_own(self):
        self.assertEqual(len(outside | namespaces("self")), 7)
        for name in UIDS:
            self.assertEqual(namespaces(podman.pid(self.container(name))) & (outside | namespaces("self")), set())

    def test_every_layer_of_every_process_is_in_force(self):
        found = samples(self.scrape())
        for program in UIDS:
            family = f"keyhole_{program}_sandbox_layer"
            # Only the broker has peers, whose descriptors kernels before Linux 6.16 do not refuse.
            also = {"passed_descriptors"} if program == "broker" else set()
            self.assertEqual(labelled(found, family, "layer"), LAYERS | also)
            values = {value for series, value in found.items() if series.startswith(family) and "passed_descriptors" not in series}
            self.assertEqual(values, {1.0})
        of = labelled(found, "keyhole_broker_sandbox_layer", "process")
        self.assertLessEqual({"broker", "zygote", "reader-procfs", "reader-sysfs", "reader-devices"}, of)
        layers = [series for series in found if series.startswith("keyhole_broker_sandbox_layer{")]
        self.assertEqual(len(layers), len(of) * len(LAYERS) + 1, layers)

    def test_the_command_that_the_readme_executes_in_a_pod_shows_a_metric(self):
        readme = (REPOSITORY / "README.md").read_text()
        (command,) = re.findall(r"^\$ kubectl -n keyhole exec ds/keyhole -c exporter -- (.+)$", readme, re.MULTILINE)
        program, subcommand, *_ = shlex.split(command)
        done = podman("exec", self.container("exporter"), program, subcommand, "loadavg")
        self.assertIn("node_load1", done.stdout)

    def test_there_is_a_probe_to_execute_and_no_shell(self):
        broker = self.container("broker")
        for probe in ("startupProbe", "livenessProbe"):
            (container,) = self.template["spec"]["initContainers"]
            podman("exec", broker, *container[probe]["exec"]["command"])
        for name in UIDS:
            for shell in ("/bin/sh", "sh", "/busybox"):
                done = podman("exec", self.container(name), shell, check=False)
                self.assertEqual(done.returncode, 127, done.stderr)

    def test_the_probes_of_the_exporter_succeed(self):
        (container,) = self.template["spec"]["containers"]
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertTrue(self.answers(container[probe]["httpGet"]["path"]), probe)

    def test_a_killed_broker_is_started_again_and_scraped_again(self):
        # podman restarts it, by the pod's restartPolicy, as the kubelet would.
        start = "keyhole_broker_start_time_seconds"
        killed, before = podman.pid(self.container("broker")), samples(self.scrape())[start]
        os.kill(killed, 9)

        def scraped_again():
            # Being asked whether it is ready, the exporter asks the broker who it is.
            self.answers("/-/ready")
            status, text = launch.fetch(f"{self.url}/metrics")
            found = samples(text.decode()) if status == 200 else {}
            return found if found.get(start, before) > before else None

        after = until("a broker that was started later is scraped", launch.PROCESS_TIMEOUT, scraped_again)
        self.assertNotIn(podman.pid(self.container("broker")), (0, killed))
        self.assertEqual((after["keyhole_broker_up"], after["keyhole_broker_restarts_seen_total"]), (1, 1))
        self.assertEqual(podman.inspect(self.container("broker"))["RestartCount"], 1)

    def test_from_inside_a_container_no_way_leads_out(self):
        victim = os.getpid()
        with tempfile.TemporaryDirectory() as sockets:
            command = ["unshare", "--mount", podman.home / "attack/attack", "exporter", str(victim), "/proc", "/sys", sockets]
            control = attempts(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
        # What root outside may not do either shows nothing: this kernel does not offer it.
        shown = {name for name, end in control.items() if end not in REFUSED}
        self.assertGreater(len(shown), 25, control)
        pod = pods.attacker(self.pod, "localhost/attack:latest", victim)
        podman.play(pod)
        try:
            for name in UIDS:
                container = f"{pod['metadata']['name']}-{name}"
                self.assertEqual(podman("wait", container).stdout.strip(), "0")
                log = podman("logs", container).stdout
                ends = attempts(log)
                self.assertEqual(ends.keys(), control.keys() - ({"write_sockets"} if name == "broker" else set()))
                through = {attempt for attempt, end in ends.items() if end not in REFUSED | UNSEEN.get(attempt, set())}
                self.assertLessEqual(through, self.through if name == "broker" else PODMANS, ends)
                if name == "broker" and "/host/proc" in self.mounts(name):
                    # What is refused is there: the attempt was at the right place.
                    missing = {attempt for attempt in shown if ends.get(attempt) == "ENOENT"}
                    self.assertEqual(missing, {"see_host", "run_shell"})
                # Before any layer of the programs' own.
                status = fields(re.sub(r"(?m)^status ", "", log))
                self.assertEqual(status["CapBnd"] + status["CapEff"], ["0" * 16] * 2)
                self.assertEqual((status["Uid"][0], status["NoNewPrivs"], status["Seccomp"]), (str(self.uids[name]), ["1"], ["2"]))
                refused = len(ends) - len(through)
                report(f"{name}: {refused} of {len(ends)} attempts refused, all but {' '.join(sorted(through))}")
        finally:
            podman.remove(pod)
        report(f"{len(shown)} go through for root outside; this kernel does not offer {' '.join(sorted(control.keys() - shown))}")


def attempts(log):
    """{attempt: how it ended}; the log must be whole."""
    assert log.rstrip().endswith("end"), log
    return dict(re.findall(r"^attempt (\w+) (\w+)$", log, re.MULTILINE))


class PrivilegedHostpath(PodClaims, unittest.TestCase):
    overlay, index = "privileged-hostpath", 1

    def test_network_counters_are_the_hosts_and_not_the_pods(self):
        before = network(1)
        found = samples(self.scrape())
        after = network(1)
        own = network(podman.pid(self.container("exporter")))
        devices = labelled(found, NETWORK[0], "device")
        self.assertTrue(before.keys() & after.keys() <= devices <= before.keys() | after.keys(), devices)
        others = 0
        for device in before.keys() & after.keys():
            for column, family in enumerate(NETWORK):
                value = found[f'{family}{{device="{device}"}}']
                self.assertTrue(before[device][column] <= value <= after[device][column], (family, device, value))
                others += device not in own or not before[device][column] <= own[device][column] <= after[device][column]
        self.assertGreater(others, 0, "the pod's own counters are the host's: this shows nothing")

    def test_what_only_the_node_knows_is_there(self):
        text = self.scrape()
        for family in (
            "node_network_up", "node_network_info", "node_network_mtu_bytes", "node_netstat_Tcp_InSegs", "node_sockstat_TCP_alloc",
            "node_udp_queues", "node_filesystem_size_bytes", "node_cpu_seconds_total", "node_memory_MemTotal_bytes",
            "node_disk_io_time_seconds_total", "node_pressure_cpu_waiting_seconds_total",
        ):
            self.assertIn(family, families(text))
        found = samples(text)
        self.assertEqual(labelled(found, "keyhole_broker_info", "access_level"), {"host"})
        self.assertEqual(labelled(found, "node_uname_info", "nodename"), {NODE})

    def test_the_file_system_of_an_empty_dir_has_the_hosts_numbers(self):
        hosts = host_mounts_of(podman.home)
        found = sizes(self.scrape())
        points = found.keys() & {mount[4] for mount in hosts}
        self.assertTrue(points, found)
        self.assertEqual({found[point] for point in points}, {size_of(podman.home)})

    def test_a_prometheus_scrapes_the_pod_and_answers_what_dashboards_ask(self):
        answered, missing = by_prometheus(self.address)
        self.assertEqual(missing, [])
        self.assertGreater(len(answered), 25)
        report(f"Prometheus answered all {len(answered)} queries for which there are data")


class RootFiles(PodClaims, unittest.TestCase):
    overlay, components, index = "privileged-hostpath", ("root",), 3
    uids = {**UIDS, "broker": 0}
    # It is uid 0 already, and may list the descriptors of root's processes: what the program's own layers take away.
    # podman knows no recursiveReadOnly, which takes away what is mounted below /sys.
    through = PODMANS | {"become_root", "read_descriptors", "write_cgroup"}

    def test_what_only_root_may_read_is_there(self):
        found = samples(self.scrape())
        self.assertTrue(labelled(found, "node_slabinfo_active_objects", "slab"))
        self.assertEqual(labelled(found, "keyhole_broker_info", "uid"), {"0"})


class Own(PodClaims, unittest.TestCase):
    overlay, index = "minimal", 2

    def test_what_the_pod_cannot_know_is_absent_and_reported(self):
        text = self.scrape()
        found = samples(text)
        prefixes = ("node_network_", "node_netstat_", "node_sockstat_", "node_udp_", "node_arp_", "node_nf_conntrack_", "node_cgroup_")
        self.assertEqual([family for family in families(text) if family.startswith(prefixes)], [])
        for collector in ("arp", "cgroup", "conntrack", "netclass", "netdev", "netstat", "sockstat", "udp_queues"):
            self.assertEqual(found[f'node_scrape_collector_success{{collector="{collector}"}}'], 0, collector)
        for query in ("arp", "cgroups", "conntrack", "mounts", "net_class", "net_dev", "net_snmp", "sockstat", "udp"):
            self.assertEqual(found[f'keyhole_query_outcome{{outcome="container_view",query="{query}"}}'], 1)
        self.assertEqual(labelled(found, "keyhole_broker_info", "access_level"), {"minimal"})

    def test_the_file_system_of_an_empty_dir_is_the_one_that_is_known_and_has_the_hosts_numbers(self):
        text = self.scrape()
        self.assertEqual(sizes(text), {"/probe/kubelet": size_of(podman.home)})
        # The host's device and type, and not that this mount is read-only.
        (series,) = (series for series in samples(text) if series.startswith("node_filesystem_readonly{"))
        labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
        hosts = {(mount[mount.index("-") + 2], mount[mount.index("-") + 1]) for mount in host_mounts_of(podman.home)}
        self.assertIn((labels["device"], labels["fstype"]), hosts)
        writable = not os.statvfs(podman.home).f_flag & os.ST_RDONLY
        self.assertEqual(samples(text)[series], 0 if writable else 1)
        # It is not all that was asked for.
        self.assertEqual(samples(text)['node_scrape_collector_success{collector="filesystem"}'], 0)

    def test_what_every_pod_can_know_is_the_hosts(self):
        found = samples(self.scrape())
        (boot,) = re.findall(r"^btime (\d+)$", pathlib.Path("/proc/stat").read_text(), re.MULTILINE)
        (memory,) = re.findall(r"^MemTotal: +(\d+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
        # The kernel derives it from the clock, which is adjusted.
        self.assertAlmostEqual(found["node_boot_time_seconds"], int(boot), delta=1)
        self.assertEqual(found["node_memory_MemTotal_bytes"], int(memory) * 1024)
        self.assertEqual(len(labelled(found, "node_cpu_seconds_total", "cpu")), os.cpu_count())
        self.assertTrue(labelled(found, "node_disk_io_time_seconds_total", "device"))
        self.assertGreater(found["node_pressure_cpu_waiting_seconds_total"], 0)


def main():
    global podman, programs, kubectl, outside
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=REPOSITORY / "target/static", type=pathlib.Path)
    parser.add_argument("--kubectl", default="kubectl")
    arguments, others = parser.parse_known_args()
    programs, kubectl = launch.binaries(arguments.programs), arguments.kubectl
    outside = unshare()
    # On SIGTERM unittest stops as at Ctrl-C, and what was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Podman() as podman:
        result = unittest.main(argv=[sys.argv[0], "--verbose", *others], exit=False).result
    return 0 if result.wasSuccessful() and result.testsRun and not result.skipped else 1


if __name__ == "__main__":
    sys.exit(main())
