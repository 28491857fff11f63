// Writes the table that exporter/src/go_regex.rs is held against: what Go's package regexp makes of patterns and texts.
//
// Run by hand when patterns are added: `go run tests/peers/go_regex/main.go > exporter/src/go_regex/table.json`.
// With two numbers it makes up as many patterns more, from that seed: for a comparison that is not kept.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"strconv"
)

// Of Go's documented syntax, each line at least once.
var grammar = []string{
	// Single characters.
	`.`, `[xyz]`, `[^xyz]`, `\d`, `\D`, `[[:alpha:]]`, `[[:^alpha:]]`, `\pN`, `\p{Greek}`, `\PN`, `\P{Greek}`,
	// Composites and repetitions.
	`xy`, `x|y`, `x*`, `x+`, `x?`, `x{2,3}`, `x{2,}`, `x{2}`, `x*?y`, `x+?y`, `x??y`, `x{2,3}?y`, `x{2,}?y`, `x{2}?y`,
	`x{0}y`, `^x{0,0}$`, `x{1000}`, `x{1001}`, `x{2,1}`, `x{1,1001}`, `(x{30}){30}`, `(x{40}){30}`, `((x{1000}){0}y){2}`, `(x{0,}){1000}`,
	`x{2}{3}`, `x**`, `x*+`, `x++`, `x??`, `x???`, `x*??`, `x*(?i)*`, `x(?i)*`, `x*(?:)*`, `x*\Q\E*`, `x\Q\E*`, `*`, `+`, `?`, `{2}`, `(*)`, `(+x)`, `x|*`, `x||*`,
	`|*`, `(|x)*`, `()*`, `^*`, `$+x`, `\b*x`, `\b+`, `(?i)*`, `(?:*)`, `(?i:+)`,
	// Braces that stand for themselves.
	`{`, `}`, `{}`, `x{`, `x{}`, `x{,2}`, `x{2`, `x{2,`, `x{2,3`, `x{a}`, `x{ 2}`, `x{02}`, `x{00}`, `x{1,02}`, `x{-1}`, `x{100000000000000000000}`, `{{.}}`, `a{*`,
	// Groups.
	`(x)`, `(?P<name>x)`, `(?<name>x)`, `(?:x)`, `(?i)x`, `(?i:x)y`, `(?P<n>a)(?P<n>b)`, `(?P<1>x)`, `(?P<a-b>x)`, `(?P<>x)`, `(?P<n`, `(?P=n)`, `(?P>n)`, `(?'n'x)`, `(?<=x)y`, `(?<!x)y`,
	`(?=x)`, `(?!x)`, `(?>x)`, `(?#x)`, `(?`, `(?i`, `(?)x`, `(?-)x`, `(?i-)x`, `(?-i)X`, `(?i-s)X`, `(?i-s:X)`, `(?--i)x`, `(?-i-s)x`, `(?ii)x`, `(?x)x y`, `(?imsU)^X.y$`,
	`(`, `)`, `(x`, `x)`, `(x))`, `((x)`, `x(?i)y|z`, `(x(?i)y)z`, `(?i)(?-i)X`, `((?i)x|y)Z`, `(?i:x(?-i)y)Z`, `((((((((((x))))))))))`,
	// Flags.
	`(?s).`, `(?s)^.$`, `^.$`, `(?-s).`, `(?m)^x$`, `(?m)^$`, `(?m)\Ax`, `(?m)x\z`, `(?m:^x)|^y$`, `(?U)x+y`, `(?U)x+?y`, `(?-m)^x$`, `(?i)straße`, `(?i)k`, `(?i)[k]`, `(?i)[^k]`, `(?i)[j-l]`,
	`(?i)s`, `(?i)σ`, `(?i)\x{212A}`, `(?i)[[:lower:]]`, `(?i)[[:^lower:]]`, `(?i)[^[:lower:]]`, `(?i)\w`, `^(?i)\w$`, `^(?i)\W$`, `^(?i)[\W]$`, `^(?i)[^\W]$`, `(?i)\d`, `(?i)\p{Lu}`, `(?i)\P{Lu}`, `(?i)[^\p{Lu}]`, `(?i)\p{Ascii}`, `^(?i)[^\P{Lu}]$`, `^(?i)\x{1E9E}$`, `^(?i)[a-z]+$`,
	// Empty strings.
	``, `|`, `x|`, `|x`, `(|)`, `^`, `$`, `^$`, `\A`, `\z`, `\b`, `\B`, `\bx`, `x\b`, `\Bx`, `x\B`, `^\B$`, `\B\B`, `^\b`, `é\b`, `\bé`, `é\B`, `\B|q`, `x$y`, `^x^`, `\Z`, `\G`, `$x`, `x^y`, `a\Bb`, `(?:\B)`, `(\B|xyz)$`,
	// The other cases of letters that have three: K, S, Greek, titles, Cherokee.
	`(?i)^K$`, `(?i)^ſ$`, `(?i)[^K]`, `(?i)[^ſ]`, `(?i)^[K]$`, `(?i)^[j-lſ]$`, `(?i)\x{17F}`, `(?i)^ς$`, `(?i)^[Σ]$`, `(?i)θ`, `(?i)^µ$`, `(?i)^å$`, `(?i)^ǆ$`, `(?i)^\p{Lt}$`, `(?i)\p{Greek}`, `(?i)^\PL$`, `(?i)^ꭰ$`, `(?i)^İ$`, `(?i)^ı$`, `(?i)^i$`, `(?i)ß`, `(?is)^.K.$`,
	// Escapes.
	`\a`, `\f`, `\t`, `\n`, `\r`, `\v`, `\*`, `\123`, `\101`, `\0`, `\00`, `\000`, `\08`, `\1`, `\8`, `\9`, `\18`, `\17`, `\377`, `\400`, `\777`, `\7777`, `\x41`, `\x4`, `\x`, `\xg1`, `\x{41}`, `\x{10FFFF}`, `\x{110000}`,
	`\x{}`, `\x{41`, `\x{g}`, `\x{0000000041}`, `\x{E9}`, `\xE9`, `\x{d800}`, `[\x{d800}-\x{dfff}]`, `[\x{d000}-\x{e000}]`, `\C`, `\Q`, `\Qx.y`, `\Qx.y\E`, `\Qx+\E+`, `\Qa\E\E`, `\E`, `\Q(\E`, `\Q\Qx\E`, `\Q[a\E`, `a\Q|\Eb`, `(\Q)\E)`, `\Q\\E`, `(?i)\QxY\E`,
	`\`, `x\`, `\_`, `\-`, `\/`, `\"`, `\'`, `\!`, `\@`, `\%`, `\,`, `\:`, `\;`, `\<`, `\>`, `\=`, `\#`, `\&`, `\~`, "\\`", `\ `, `\.`, `\{`, `\}`, `\e`, `\c`, `\cA`, `\g`, `\h`, `\i`, `\j`, `\k`, `\l`, `\m`, `\o`, `\q`, `\u0041`, `\U`, `\y`, `\é`, `\R`, `\X`, `\N`, `\K`, `\H`, `\V`,
	// Perl's classes.
	`\s`, `\S`, `\w`, `\W`, `^\w$`, `^\w+$`, `^\W$`, `^\d$`, `^\D$`, `^\s$`, `^\S$`, `^[\s]$`, `^[\v]$`, `^[^\v]$`,
	// Unicode's.
	`\p{L}`, `\pL`, `\p{Lu}`, `\p{^Lu}`, `\P{^Lu}`, `\P{Lu}`, `\p{Han}`, `\p{Latin}`, `\p{Latn}`, `\p{Grek}`, `\p{greek}`, `\p{GREEK}`, `\p{Letter}`, `\p{letter}`, `\p{Uppercase_Letter}`, `\p{uppercase letter}`, `\p{Any}`, `\p{Assigned}`, `\p{ASCII}`,
	`\p{C}`, `\p{Cn}`, `\p{Cs}`, `\p{Cc}`, `\p{LC}`, `\p{L&}`, `\p{Alphabetic}`, `\p{Emoji}`, `\p{White_Space}`, `\p{sc=Greek}`, `\p{gc=L}`, `\p{L}{2}`, `\p`, `\p{`, `\p{L`, `\p{}`, `\p{^}`, `\p^`, `\pX`, `\pé`, `\p{Foo}`, `\p{digit}`, `\p{punct}`, `\p{space}`, `\p{word}`, `[\p{L}]`, `[^\p{L}]`, `[\P{L}]`, `[\pN]`, `^\p{Zs}$`, `^\p{Nd}$`, `^\p{M}$`, `\p{Common}`, `\p{Inherited}`,
	// POSIX classes.
	`[[:alnum:]]`, `[[:ascii:]]`, `[[:blank:]]`, `[[:cntrl:]]`, `[[:digit:]]`, `[[:graph:]]`, `[[:lower:]]`, `[[:print:]]`, `[[:punct:]]`, `[[:space:]]`, `[[:upper:]]`, `[[:word:]]`, `[[:xdigit:]]`, `[[:^word:]]`, `^[[:space:]]$`, `^[[:^space:]]$`, `^[[:punct:]]$`,
	`[[:foo:]]`, `[[:Alpha:]]`, `[[:alpha]]`, `[[:alpha:]`, `[:alpha:]`, `[[:]`, `[[::]]`, `[[:alpha:]-z]`, `[a-[:digit:]]`, `[[=a=]]`, `[[.a.]]`, `[[:alpha:][:digit:]]`, `[^[:^alpha:]]`,
	// Classes in brackets.
	`[]`, `[^]`, `[]]`, `[]x]`, `[^]x]`, `[x`, `[`, `[^`, `[x-`, `[\`, `[-]`, `[--]`, `[---]`, `[-x]`, `[x-]`, `[^-]`, `[a-z-9]`, `[a\-z]`, `[z-a]`, `[a-a]`, `[\d-z]`, `[a-\d]`, `[a-\x7a]`, `[!--]`, `[+--]`, `[--/]`, `[a-b-c]`, `[[]`, `[[a]`, `[[a]]`, `[a[b]c]`, `[[^a]]`, `[a&&b]`, `[a-z&&[^b]]`, `[a--b]`, `[a-z--b]`, `[a~~b]`, `[&&]`, `[~~]`,
	`[.]`, `[*]`, `[$^]`, `[a^]`, `[^^]`, `[|]`, `[()]`, `[{}]`, `[\]]`, `[\\]`, `[\^]`, `[\Q]`, `[\E]`, `[\b]`, `[\B]`, `[\A]`, `[\z]`, `[\C]`, `[\1]`, `[\01]`, `[\101]`, `[\n]`, `[\t ]`, `[#]`, `[ ]`, `[\x00-\x{10FFFF}]`, `[^\x00-\x{10FFFF}]`, `x[^\x00-\x{10FFFF}]|y`, `[^\x00-\x{d7ff}\x{e000}-\x{10FFFF}]`, `[^\x00-\x{d7fe}\x{e001}-\x{10FFFF}]`, `[^\x{d7ff}]`, `^[^\x{e000}]$`, `[^\D]`, `[^\d]`, `[\D\d]`, `[^\D\d]`, `[é]`, `[^é]`, `[α-ω]`, `[a-é]`, `^[^x]$`, `^[^\n]$`, `[(?i)x]`, `[a-z]{2}`, `x#y`, `x y`,
	// Characters that are none in UTF-8.
	`^...$`, `^.....$`, `^a.b$`, `\x{FFFD}`, `^[^a-z]+$`, `a\x{FFFD}b`, `^[\x{FFFD}]+$`, `a[\x80-\xff]b`,
}

// Of charts, documents and issues.
var wild = []string{
	`^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)`,
	`^/(dev|proc|sys|var/lib/docker/.+|var/lib/kubelet/.+)($|/)`,
	`^/(dev|proc|sys|var/lib/docker/.+|var/lib/kubelet/pods/.+)($|/)`,
	`^/(dev|proc|sys|run/k3s/containerd/.+|var/lib/docker/.+|var/lib/kubelet/pods/.+)($|/)`,
	`^/(sys|proc|dev|host|etc|rootfs/var/lib/docker/containers|rootfs/var/lib/docker/overlay2|rootfs/run/docker/netns|rootfs/var/lib/docker/aufs)($$|/)`,
	`^/(sys|proc|dev|host|etc)($$|/)`, `^/(sys|proc|dev|host|etc)($|/)`,
	`^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|erofs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$`,
	`^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs|tmpfs)$`,
	`^(autofs|binfmt_misc|cgroup|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|mqueue|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|sysfs|tracefs)$`,
	`^(veth.*|[a-f0-9]{15})$`, `^(veth.*)$`, `^veth.*`, `^veth.*$`, `^(veth|cali|lxc|cilium|docker|br-|virbr|flannel|cni).*`, `veth.+`, `^lo$`, `lo`, `^(lo|docker[0-9]|veth.+)$`, `^(eth|en|bond)[0-9]*`, `en.*|eth.*`, `^(lo|docker.*|veth.*|br-[0-9a-f]{12})$`,
	`^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`, `^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`, `^(ram|loop|fd|nbd)\d+$`, `^(dm-|md|nvme|sd|vd|xvd).*`, `^(?:sd[a-z]+|nvme\d+n\d+)$`,
	`^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$`,
	// Ansible's roles, Helm charts, kube-prometheus, Alloy, agents and issues.
	`^/(dev|proc|run/.+|sys|var/lib/docker/.+)($|/)`, `^/(sys|proc|dev|run)($|/)`, `^/(dev|proc|sys|run|var/lib/containers|var/lib/docker/.+|var/lib/kubelet/.+)($|/)`, `^/(dev|proc|sys|var/lib/docker|var/lib/lxcfs|run/user/[0-9]+)($|/)`, `^/(tmp|run|dev|sys|proc)($$|/)`, `^/(rootfs/)?(dev|proc|sys)($|/)`, `^/(host/)?run/netns/.+$`, `^(/rootfs|/host|)/(?:boot|etc)$`, `^/mnt/.+`, `^/snap/.+`, `/var/lib/docker/(overlay2|containers)/[[:xdigit:]]+`, `^/(?:dev|proc|sys)(?:$|/)`, `^/var/lib/kubelet/plugins/kubernetes\.io/csi/.*$`,
	`^(tmpfs|cgroup2?|debugfs|devtmpfs)$`, `^(?:tmpfs|fuse\.lxcfs|squashfs|vfat)$`, `^(sysfs|procfs|autofs|ramfs)$`, `fuse\..*`, `^(nfs4?|cifs|smb3|ceph|fuse\.glusterfs)$`, `^(rootfs|tmpfs|aufs|shm|nsfs)$`, `^(ext[234]|xfs|btrfs|zfs)$`,
	`^(cali.*|veth.*|tunl0|kube-ipvs0|nodelocaldns|dummy0)$`, `^(lxc|cilium|azv|eni|gke|cbr|nic)[0-9a-z]*`, `(?i)^(lo|docker|veth|br-|virbr|vnet|tap|fwbr|fwpr|fwln)`, `^(?:tun|tap|wg|ppp|tailscale)\d+$`, `^((en|wl|ww)[opsx][\w]+|eth\d+)$`, `^v(eth|net|irbr).*|^fw(br|pr|ln)\d+.*|^tap\d+i\d+$`, `^bond\d+(\.\d+)?$|^team\d+$`, `[a-f0-9]{15}`, `^[a-f0-9]{12}_[hc]$`, `^(ib|mlx|hsn)\d+$`, `^(?P<kind>eth|en)(?P<number>\d+)$`,
	`^(md\d+|dm-\d+|sd[a-z]+|nvme\d+n\d+|vd[a-z]|xvd[a-z])$`, `^(sr|fd|loop|ram|zram)[0-9]+$`, `^(?:zd\d+(?:p\d+)?|rbd\d+|nbd\d+)$`, `^(dasd[a-z]+\d*|scm[a-z]+)$`, `^mmcblk\d+p\d+$`, `(sd|hd|vd)[a-z]\d?$`,
	`.+\.(service|socket|timer|mount|slice)`, `.+\.scope|.+\.device`, `^(docker|sshd?|ntpd?|chronyd|k(ubelet|3s(-agent)?))\.(service|socket)$`, `(ssh|cron|systemd-.*)\.service`, `^(?:[^.]+)\.service$`, `(autovt@.*|getty@.*|user@\d+)\.service`, `^nginx(@\S+)?\.service$`,
	`^(nf_conntrack|net\.core\.(so|r|w)max.*)$`, `^(ipv4|ipv6)_.+`, `^(?:Tcp|Udp)(?:Ext|Lite)?6?_(?:[A-Z][a-z]+)+$`, `^(Active|Passive)Opens$`, `^(.*)$`, `^(?:.*)$`, `^.+$`, `^([^:]+):(\d+)$`, `^\S+$`, `(?s).*`, `(?m)^eth0$`, `^nvme[0-9]+$|^sd[a-z]$`, `^thermal_thermal_zone[0-9]+;temp[0-9]+$`, `^platform_(coretemp|nct6775)_\d+$`, `^(acpitz|iwlwifi_\d+|pch_.+)$`, `^AC|BAT[0-9]$`, `^(?:vmx|svm|sse4_[12])$`, `^(pcid|pti|ibrs|ibpb|stibp)$`,
	`^(oom_kill|pgpg|pswp|pg.*fault).*`, `^(oom_kill|pgpg|pswp|nr|pg.*fault).*`, `.*`, `.+`, `^$`, `^.*$`, `^(aes|avx.?|constant_tsc)$`, `^(cpu_meltdown|spectre_.*|mds)$`, `(applesmc|asus_nb_wmi|coretemp|hwmon4|ieee80211|nct6779)`, `(dmz|int)`, `^(?:coretemp|k10temp);temp\d+$`, `(kubelet|docker)\.service`, `^bat\d$`, `^/(?:boot|)$`, `^/var/lib/kubelet/pods/[0-9a-f-]{36}/volumes/`, `^(?i:cali)[0-9a-f]{11}$`, `^[^v]`, `^mmcblk\d+(p\d+|boot[01]|rpmb)?$`, `^tap[0-9a-f]{8}-[0-9a-f]{2}$`, `^br\-`, `^(bond0\.[0-9]{1,4})$`,
}

// Each character is a byte.
var texts = []string{
	"", "x", "y", "z", "xy", "xx", "xxx", "xxy", "yx", "X", "Y", "Z", "xY", "XY", "Xy", "a", "b", "ab", "abc", "q", "k", "K", "s", "S", "A", "B", "5", "_", "-", "^", "]", "[", "[a", "{", "}", "{}", "x{", "x{,2}", "x{2", "{{.}}", "(", ")", "|", "a|b", "*", "+", ".", "$", "\\", "&", "&&", "~", "#", "!", ",", "/", " ", "x y", "x#y", "x.y",
	"\x00", "\x01", "\x07", "\t", "\n", "\x0b", "\x0c", "\r", "\x7f", "x\n", "\nx", "x\ny", "a\nb", "\n\n", "08", "8", "A8",
	"é", "É", "ß", "ſ", "K", "α", "Ω", "σ", "ς", "漢", "٣", "½", "\u00a0", "\u2028", "\u0301", "\u200d", "😀", "aé", "éa", "aéa", "éé", "ẞ", "straße", "STRASSE", "xK\n", "Ǆ", "ǅ", "ǆ", "Ꭰ", "ꭰ", "İ", "ı", "θ", "ϑ", "ϴ", "µ", "μ", "Å", "å", "Å", "Σ", "Ā", "ÿ", "\u0378", "\ue000", "\U0010ffff", "\ufffd",
	"\xff", "a\xff", "a\xffb", "\xe9", "\xc3", "\xe2\x82", "a\xe2\x82b", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff\xff\xff", "\x80é", "\xc3\xa9\xa9",
	"lo", "eth0", "eth0.5", "bond0.12", "veth12ab", "abcdef012345678", "br-0123456789ab", "docker0", "cali0123456789a", "CALI0123456789a", "tap01234567-89", "enp3s0", "bat0", "mmcblk0p1", "mmcblk0",
	"sda", "sda1", "vdb", "xvda2", "loop0", "ram12", "zram0", "dm-0", "md127", "nvme0n1", "nvme0n1p2", "fd0", "nbd3",
	"/", "/dev", "/dev/shm", "/device", "/proc", "/sys/fs", "/var/lib/docker/overlay2/x", "/var/lib/kubelet/pods/0f4e1b2c-0000-1111-2222-333344445555/volumes/a", "/var/lib/kubelet/x", "/run/credentials/a", "/etc/hosts", "/boot", "/rootfs/run/docker/netns/x", "/run/k3s/containerd/x",
	"fuse.lxcfs", "nfs4", "sshd.service", "user@1000.service", "wg0", "vnet12", "zd16p1", "dasda1", "acpitz", "/snap/core/1", "/run/user/1000", "ext4", "tmpfs", "cgroup", "cgroup2", "overlay", "squashfs", "erofs", "nfs", "xfs",
	"Ip_InErrs", "Ip_Forwarding", "IpExt_InOctets", "Tcp_CurrEstab", "TcpExt_ListenDrops", "Udp6_NoPorts", "Icmp_InMsgs", "oom_kill", "pgpgin", "nr_free_pages", "pgmajfault", "aes", "avx2", "avx512f", "constant_tsc", "spectre_v2", "platform_coretemp_0", "coretemp;temp1", "k10temp;temp12",
}

var pieces = []string{
	`x`, `y`, `a`, `b`, `k`, `s`, `é`, `Ω`, `5`, `_`, ` `, `-`, `.`, `\d`, `\D`, `\s`, `\S`, `\w`, `\W`, `\b`, `\B`, `\A`, `\z`, `^`, `$`, `*`, `+`, `?`, `*?`, `{2}`, `{1,2}`, `{0,}`, `{`, `}`, `|`, `|`, `(`, `)`, `(?:`, `(?i)`, `(?-i)`, `(?i:`, `(?s)`, `(?m)`, `(?U)`, `(?P<n>`, `[`, `]`, `[^`, `[x-z]`, `[^a-k]`, `[\w-]`, `[^\W]`, `[[:alpha:]]`, `[[:^space:]]`, `[:`, `:]`, `&&`, `--`, `~~`, `\p{L}`, `\P{Lu}`, `\pN`, `\Q`, `\E`, `\101`, `\x41`, `\x{e9}`, `\n`, `\`, `\x{FFFD}`, `\-`, `\0`, `\7`, `#`, `()`,
}

func bytesOf(text string) string {
	out := []rune{}
	for _, b := range []byte(text) {
		out = append(out, rune(b))
	}
	return string(out)
}

func encode(value any) string {
	out, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func main() {
	patterns := append(append([]string{}, grammar...), wild...)
	count, seed := 400, int64(15)
	if len(os.Args) > 2 {
		count, _ = strconv.Atoi(os.Args[1])
		seed, _ = strconv.ParseInt(os.Args[2], 10, 64)
	}
	random := rand.New(rand.NewSource(seed))
	for i := 0; i < count; i++ {
		pattern := ""
		for n := 1 + random.Intn(8); n > 0; n-- {
			pattern += pieces[random.Intn(len(pieces))]
		}
		patterns = append(patterns, pattern)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	fmt.Fprintln(out, `{"texts": [`)
	for i, text := range texts {
		fmt.Fprint(out, encode(bytesOf(text)))
		if i < len(texts)-1 {
			fmt.Fprintln(out, ",")
		}
	}
	fmt.Fprintln(out, `], "patterns": [`)
	for i, pattern := range patterns {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			fmt.Fprintf(out, "[%s, false, []]", encode(pattern))
		} else {
			matched := []int{}
			for at, text := range texts {
				if compiled.MatchString(text) {
					matched = append(matched, at)
				}
			}
			fmt.Fprintf(out, "[%s, true, %s]", encode(pattern), encode(matched))
		}
		if i < len(patterns)-1 {
			fmt.Fprintln(out, ",")
		}
	}
	fmt.Fprintln(out, `]}`)
}
