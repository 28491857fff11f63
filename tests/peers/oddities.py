"""Makes a host with odd interfaces, mounts and text files, in namespaces of its own; differential.py imports it.

What the kernel cannot make (a missing module) is left out and printed.
"""
import os
import subprocess
import sys

INSIDE = "KEYHOLE_IN_NAMESPACES"


def possible():
    return INSIDE in os.environ


def enter_namespaces():
    """Starts the program again as process 1 of new PID, network and mount namespaces, where that is allowed."""
    if possible() or os.geteuid() != 0:
        return
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    allowed = subprocess.run([*unshare, "sh", "-c", "mount -t sysfs sysfs /sys && ip link set lo up"], capture_output=True)
    if allowed.returncode:
        print(f"no namespaces, so no odd interfaces, mounts and text files: {allowed.stderr.decode().strip()}")
        return
    environment = {**os.environ, INSIDE: "1"}
    os.execvpe("unshare", [*unshare, sys.executable, *sys.argv], environment)


def run(*command):
    """Runs a command; returns the last line of its error if it fails."""
    done = subprocess.run(command, capture_output=True)
    return None if done.returncode == 0 else (done.stderr or b"failed").decode(errors="replace").strip().splitlines()[-1]


# Commands of `ip`. The names have every kind of byte that the kernel allows and that text formats need to escape.
LINKS = [
    "link set lo up",
    "link add veth@x type veth peer name a=b",
    'link add q"uote type veth peer name back\\slash',
    "link add {brace} type veth peer name comma,equals=",
    "link add ünïcode type veth peer name #hash",
    "link add down0 type veth peer name nocarrier0",
    "link set nocarrier0 up",
    "link set veth@x up",
    "link set a=b up",
    "link set a=b mtu 1280",
    "link set veth@x alias LONG",
    "link add link veth@x name veth@x.10 type vlan id 10",
    "link add br-odd type bridge",
    "link set #hash master br-odd",
    "link set br-odd up",
    "link add ifb-odd type ifb",
    "tuntap add tun-odd mode tun",
    "tuntap add tap-odd mode tap",
    "link add dummy-odd type dummy",
    "link add bond-odd type bond mode active-backup",
    "link set dummy-odd master bond-odd",
    "link add link veth@x name macvlan-odd type macvlan",
    "address add 192.0.2.1/24 dev veth@x",
    "address add 2001:db8::1/64 dev veth@x",
    "neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev veth@x",
    "route add 198.51.100.0/24 via 192.0.2.9",
    "route add blackhole 203.0.113.0/24",
    "route add unreachable 203.0.113.0/25",
]


def links():
    for line in LINKS:
        words = [word if word != "LONG" else 'alias with "quotes", \\ and ' + "x" * 200 for word in line.split(" ")]
        failed = run("ip", *words)
        if failed:
            yield f"not made: ip {line}: {failed}"


MOUNTED = []


def unmount():
    """Takes down what mounts() made, so that the directories can be removed."""
    while MOUNTED:
        run("umount", "--lazy", MOUNTED.pop())


def mounts(base):
    """Mount points with odd names, and odd mounts."""
    def directory(name):
        path = os.path.join(os.fsencode(base), name)
        os.makedirs(path, mode=0o755, exist_ok=True)
        return path

    def mount(name, *flags, kind="tmpfs", source="odd-source"):
        path = directory(name)
        failed = run("mount", "-t", kind, *flags, source, path)
        MOUNTED.append(path)
        return None if failed is None else f"not mounted: {name!r}: {failed}"

    yield mount(b"with space", "-o", "size=1m")
    yield mount(b"new\nline", "-o", "size=1m")
    yield mount(b"tab\there", "-o", "size=1m")
    yield mount(b"back\\slash\\040", "-o", "size=1m")
    yield mount("ünïcode ☃".encode(), "-o", "size=1m")
    yield mount(b"not utf-8 \xff\xfe", "-o", "size=1m")
    yield mount(b'quote"and,comma={}#', "-o", "size=1m")
    yield mount(b"/".join([b"long" * 50] * 4), "-o", "size=1m")
    yield mount(b"no size", "-o", "size=0")
    yield mount(b"read-only", "-o", "ro,size=1m")
    yield mount(b"source", "-o", "size=1m", source='a\tb\\c "d"')
    yield mount(b"hidden/below", "-o", "size=3m")
    yield mount(b"hidden", "-o", "size=2m")
    yield mount(b"twice", "-o", "size=4m")
    yield mount(b"twice", "-o", "size=5m")
    bound = directory(b"bound")
    failed = run("mount", "--bind", directory(b"with space"), bound)
    MOUNTED.append(bound)
    yield None if failed is None else f"not bound: {failed}"
    for name in (b"lower", b"layers/upper", b"layers/work"):
        directory(name)
    yield mount(b"layers", "-o", "size=1m")
    parts = [directory(name) for name in (b"lower", b"layers/upper", b"layers/work")]
    options = b"lowerdir=%s,upperdir=%s,workdir=%s" % tuple(parts)
    yield mount(b"overlay", "-o", os.fsdecode(options), kind="overlay")
    yield mount(b"ramfs", kind="ramfs")


# Files that node_exporter accepts, or rejects as a whole or in part. Those that make it panic (`__` labels, unknown types)
# are not among them.
TEXT_FILES = {
    "plain.prom": "# HELP t_plain Things.\n# TYPE t_plain counter\nt_plain{a=\"1\"} 1\nt_plain{a=\"2\"} 2.5e3\n",
    "sp ace =#.prom": "t_space 1\n",
    "ünï.prom": "t_uni{x=\"üñ☃\"} 1\n",
    "no-newline.prom": "t_cut 1\nt_cut2 2",
    "empty.prom": "",
    "not.prom.tmp": "t_not 1\n",
    "timestamp.prom": "t_time 1 1700000000000\n",
    "crlf.prom": "t_crlf 1\r\n",
    "exemplar.prom": "t_exemplar 1 # {t=\"x\"} 1\n",
    "eof.prom": "t_eof 1\n# EOF\n",
    "bom.prom": "\ufefft_bom 1\n",
    "numbers.prom": "t_nan NaN\nt_inf +Inf\nt_minus -inf\nt_plus +5\nt_dot .5\nt_exponent 1E-9\nt_infinity Infinity\nt_zero -0\n",
    "hex.prom": "t_hex 0x10\n",
    "underscore.prom": "t_under 1_0\n",
    "huge.prom": "t_huge 1e400\n",
    "escapes.prom": 't_esc{a="\\\\",b="\\n",c="\\"",d="}",e="{,="} 1\n',
    "bad-escape.prom": 't_badesc{a="\\t"} 1\n',
    "colons.prom": "t:colon:s 1\n",
    "label-colon.prom": 't_lc{a:b="1"} 1\n',
    "quoted.prom": '{"t_quoted",x="1"} 1\nt_quoted{"x"="2"} 1\n',
    "quoted-bad.prom": '{"t.quoted"} 1\n',
    "name-label.prom": 't_nl{__name__="x"} 1\n',
    "braces.prom": "t_braces{} 1\nt_braces2 {x=\"1\",}2\n",
    "histogram.prom": '# TYPE t_h histogram\nt_h_bucket{le="0.1"} 1\nt_h_bucket{le="1.0"} 2\nt_h_bucket{le="+Inf"} 3\nt_h_sum 4\nt_h_count 3\n',
    "histogram-le.prom": '# TYPE t_hl histogram\nt_hl_bucket{le="1"} 1\nt_hl_count{le="1"} 2\nt_hl_sum 3\n',
    "histogram-labels.prom": '# TYPE t_hb histogram\nt_hb_bucket{x="1",le="1000000"} 1\nt_hb_count{x="1"} 2\nt_hb_sum{x="1"} 3\n',
    "histogram-no-le.prom": "# TYPE t_hn histogram\nt_hn_bucket 1\nt_hn_count 1\nt_hn_sum 1\n",
    "summary.prom": '# TYPE t_s summary\nt_s{quantile="0.5"} 1\nt_s{quantile="0.990"} 2\nt_s_sum 3\nt_s_count 4\n',
    "help-a.prom": "# HELP t_help One.\nt_help{x=\"1\"} 1\n",
    "help-b.prom": "# HELP t_help Other.\nt_help{x=\"2\"} 1\nt_help_beside 1\n",
    "type-a.prom": "# TYPE t_type gauge\nt_type{x=\"1\"} 1\n",
    "type-b.prom": "# TYPE t_type counter\nt_type{x=\"2\"} 1\nt_type_beside 1\n",
    "twice.prom": "t_twice 1\nt_twice 2\nt_twice_beside 3\n",
    "twice-a.prom": "t_twofiles 1\n",
    "twice-b.prom": "t_twofiles 2\n",
    "late-type.prom": "t_late 1\n# TYPE t_late gauge\n",
    "unknown-type.prom": "# TYPE t_unknown unknown\nt_unknown 1\n",
    "own.prom": "# TYPE node_load1 gauge\nnode_load1 7\n",
    "labels.prom": 't_labels{a="1"} 1\nt_labels{b="1"} 2\nt_labels{a=""} 3\n',
    "latin-help.prom": b"# HELP t_latin caf\xe9\nt_latin 1\n",
    "latin-label.prom": b't_latin_label{x="caf\xe9"} 1\n',
    "negative.prom": "# TYPE t_negative counter\nt_negative -1\n",
    "interleaved.prom": "t_i 1\nt_j 1\nt_i{x=\"1\"} 2\n",
    "collides-a.prom": "# TYPE t_c summary\nt_c{quantile=\"1\"} 1\nt_c_sum 1\nt_c_count 1\n",
    "collides-b.prom": "t_c_count 5\n",
    "blanks.prom": "\n\n  # comment\n#\n# HELP\n# TYPE t_blanks\nt_blanks\t1\n",
}


def text_files(base):
    directory = os.path.join(base, "text files")
    os.makedirs(directory, exist_ok=True)
    for name, text in TEXT_FILES.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
    return directory


def make(home):
    """Makes all of it below `home`; returns what could not be made, and the directory of text files."""
    os.chmod(home, 0o755)
    # Of the new network namespace.
    made = [run("mount", "-t", "sysfs", "sysfs", "/sys")]
    made += links()
    made += mounts(home / "odd mounts")
    return [what for what in made if what], text_files(home)
